"""The one table from errors to HTTP statuses, and their answers as `application/problem+json` (RFC 9457).

The handlers are async, because Starlette would run plain functions in threads.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app import errors

MEDIA_TYPE = "application/problem+json"
CLIENT_GONE = 499  # nobody receives this status; it marks such requests in the log and the metrics
PROBLEMS: dict[type[errors.FusionLensError], tuple[int, str]] = {
    errors.MalformedTarget: (400, "malformed-target"),
    errors.EmptyUpload: (400, "empty-upload"),
    errors.MalformedUpload: (400, "malformed-upload"),
    errors.Unauthorized: (401, "unauthorized"),
    errors.Forbidden: (403, "forbidden"),
    errors.UnknownPrediction: (404, "unknown-prediction"),
    errors.UploadTooSlow: (408, "upload-too-slow"),
    errors.ReloadRefused: (409, "reload-refused"),
    errors.ModelGone: (410, "model-gone"),
    errors.UploadTooLarge: (413, "upload-too-large"),
    errors.PictureTooLarge: (413, "picture-too-large"),
    errors.TargetTooLong: (414, "uri-too-long"),
    errors.UnsupportedMediaType: (415, "unsupported-media-type"),
    errors.MissingField: (422, "missing-field"),
    errors.UnreadablePicture: (422, "unreadable-picture"),
    errors.BadParameter: (422, "bad-parameter"),
    errors.NotOffered: (422, "not-offered"),
    errors.Overloaded: (429, "overloaded"),
    errors.TooManyRequests: (429, "too-many-requests"),
    errors.NotReady: (503, "not-ready"),
    errors.StoreUnavailable: (503, "store-unavailable"),
    errors.BundleError: (503, "bundle-unusable"),
    errors.EngineError: (503, "engine-unusable"),
    errors.DeadlineExceeded: (504, "deadline-exceeded"),
}
RETRY_AFTER = {"Retry-After": {"description": "seconds after which to try again", "schema": {"type": "integer"}}}


class Problem(BaseModel):
    """An error, as defined by RFC 9457."""

    type: str = Field(
        description="stable name of the kind of problem", examples=["urn:fusionlens:problem:unknown-prediction"]
    )
    title: str = Field(description="the status as a phrase", examples=["Not Found"])
    status: int = Field(description="the HTTP status", examples=[404])
    detail: str = Field(description="what happened and what to do, in a sentence")


DEFAULT_RESPONSE: dict[int | str, dict[str, Any]] = {"default": {"model": Problem, "description": "Any other error."}}


def install_handlers(app: FastAPI, authorize_unrouted: Callable[[Request], Awaitable[None]]) -> None:
    """Answer every error of the application, of validation and of routing with a problem.

    `authorize_unrouted` is called before a client is told that there is no such route or method. It may raise a
    FusionLensError, which is the answer then.
    """

    async def http_exception(request: Request, error: Exception) -> Response:
        try:
            await authorize_unrouted(request)
        except errors.FusionLensError as refused:
            return response_to(request, refused)
        return _http_exception(request, error)

    app.add_exception_handler(errors.FusionLensError, _domain_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, http_exception)
    app.add_exception_handler(ClientDisconnect, _client_disconnected)
    app.add_exception_handler(Exception, _unexpected_error)


def error_responses(*classes: type[errors.FusionLensError]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI `responses` of a route that raises these errors, with the name and the meaning of each."""
    meanings: dict[int, list[str]] = {}
    for error_class in dict.fromkeys(classes):
        status, name = _status_and_name(error_class)
        meanings.setdefault(status, []).append(f"`{name}`: {inspect.getdoc(error_class)}")
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": "\n\n".join(of_status)}
        for status, of_status in sorted(meanings.items())
    }
    if 429 in responses:
        responses[429]["headers"] = RETRY_AFTER
    return responses


def response_to(request: Request, error: Exception) -> Response:
    """The response for a `FusionLensError`."""
    assert isinstance(error, errors.FusionLensError)
    status, name = _status_and_name(type(error))
    retry_after_s = getattr(error, "retry_after_s", None)
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    if isinstance(error, errors.Unauthorized):
        headers |= {"WWW-Authenticate": 'Bearer realm="fusionlens"', "Connection": "close"}
    return _problem(request, status, name, str(error), headers)


def problem(status: int, name: str, detail: str) -> Problem:
    """The problem of this name."""
    return Problem(type=f"urn:fusionlens:problem:{name}", title=HTTPStatus(status).phrase, status=status, detail=detail)


def unknown_parameter(request: Request, name: str) -> str:
    """The sentence about a parameter that a route does not have."""
    return f"There is no parameter {name!r} here. {_where_documented(request)} lists all parameters."


def _where_documented(request: Request) -> str:
    """Where a client finds the routes: the service's own page, if it has one."""
    if request.app.openapi_url is None:
        return "The documentation of FusionLens"
    return f"{request.scope.get('root_path', '')}/docs"


def _status_and_name(error_class: type[errors.FusionLensError]) -> tuple[int, str]:
    """The status and name of an error class, or of its nearest ancestor in the table.

    Raises LookupError if there is none.
    """
    for ancestor in error_class.__mro__:
        if (entry := PROBLEMS.get(ancestor)) is not None:
            return entry
    raise LookupError(f"{error_class.__name__} has no HTTP status: add it, or an ancestor of it, to the table")


def _problem(request: Request, status: int, name: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    request.state.problem = name  # for the log and the metrics
    return Response(
        json.dumps(problem(status, name, detail).model_dump(), ensure_ascii=False),
        status,
        {"Cache-Control": "no-store", **(headers or {})},
        MEDIA_TYPE,
    )


async def _domain_error(request: Request, error: Exception) -> Response:
    return response_to(request, error)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _problem(request, 422, "bad-parameter", " ".join(_sentence(request, fault) for fault in error.errors()))


def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    name, headers = phrase.lower().replace(" ", "-"), dict(error.headers or {})
    if "Allow" in headers:  # Starlette lists the methods of only one of the routes with this path
        methods = request.app.openapi()["paths"].get(getattr(request.scope.get("route"), "path", None), {})
        headers["Allow"] = ", ".join(sorted(method.upper() for method in methods)) or headers["Allow"]
    advice = f"{_where_documented(request)} lists all routes."
    if "Allow" in headers:
        advice = f"Use {headers['Allow']}."
    return _problem(
        request, error.status_code, name, f"{phrase}: {request.method} {request.url.path}. {advice}", headers
    )


async def _client_disconnected(request: Request, error: Exception) -> Response:
    # The client disconnected, or the server has refused the rest of its request: nobody reads this response.
    status, request.state.problem = getattr(request.state, "refusal", (CLIENT_GONE, "client-gone"))
    return Response(status_code=status)


async def _unexpected_error(request: Request, error: Exception) -> Response:
    # Starlette raises the error again after this response, so that it is logged with its traceback.
    response = _problem(request, 500, "internal", "The service failed on this request; its log says why.")
    # This response is sent outside TelemetryMiddleware, which adds the header to all others.
    response.headers["X-Request-ID"] = request.state.request_id
    return response


def _sentence(request: Request, fault: dict[str, Any]) -> str:
    name = ".".join(map(str, fault["loc"][1:]))
    if fault["type"] == "extra_forbidden":
        return unknown_parameter(request, name)
    if fault["type"] == "missing":
        return f"The parameter {name!r} is missing."
    return f"{name}: {fault['msg']}."
