"""The parameters of a request, from its query and from the fields of a form beside the picture: none is ignored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from app.api.problems import unknown_parameter
from app.errors import BadParameter

Query = TypeVar("Query", bound=BaseModel)


async def check_query(request: Request) -> None:
    """The dependency of every route. Raises BadParameter for what the query of a request may not have.

    That is a parameter that is there twice, and any parameter where the route has none. A route that has some refuses
    unknown ones itself, together with its other faults, and one with a prediction in its path calls `refuse_query`,
    after it has found the prediction. Pages take any query, since links to them may carry marks of where they were
    found.
    """
    route = request.scope.get("route")
    if not isinstance(route, APIRoute) or not route.include_in_schema or route.dependant.path_params:
        return
    if route.dependant.query_params:
        _refuse_body(request)
        _refuse_repeated(name for name, _ in request.query_params.multi_items())
    else:
        refuse_query(request)


def refuse_query(request: Request) -> None:
    """Raises BadParameter for any parameter in the query, on a route that has none."""
    refuse_fields(request, request.query_params)


def refuse_fields(request: Request, fields: Iterable[str]) -> None:
    """Raises BadParameter for any field beside the picture, on a route that has no parameters."""
    if names := [*fields]:
        raise BadParameter(" ".join(unknown_parameter(request, name) for name in names))


def with_fields(query: Query, request: Request, fields: Mapping[str, str]) -> Query:
    """The parameters of the query, with those from the fields of a form, checked in the same way.

    `query` are the parameters of the request's query alone. Raises BadParameter for one that is in both places, and
    RequestValidationError as FastAPI does for the query.
    """
    if not fields:
        return query
    given = dict(request.query_params)
    if both := [name for name in fields if name in given]:
        raise BadParameter(f"The parameter {both[0]!r} is in the query and in the form: send it in one of them.")
    try:
        return type(query).model_validate({**given, **fields}, context={"form_fields": frozenset(fields)})
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_url=False)]
        raise RequestValidationError(faults) from error


def _refuse_body(request: Request) -> None:
    """Raises BadParameter for a body where only the query is read: it may hold parameters, as that of a POST does."""
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    if has_body and request.method in ("GET", "HEAD"):
        raise BadParameter(f"The parameters of {request.method} are in the URL: leave out the body.")


def _refuse_repeated(names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise BadParameter(f"The parameter {name!r} is in the query {count} times: send it once.")
