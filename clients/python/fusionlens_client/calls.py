"""Every question to the service as a value: what is sent, and how its answer is read. Nothing here sends.

`client` and `async_client` send these calls and hand the outcomes back, each in its own way. All that they have in
common is here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import httpx
import numpy as np
from PIL import Image

from fusionlens_client.answers import ExplanationAnswer, Health, ModelCard, PredictionAnswer, SimilarCases
from fusionlens_client.decoding import decode, fields_of
from fusionlens_client.errors import (
    PROBLEMS,
    TYPE_PREFIX,
    ConnectionFailed,
    InvalidInput,
    Problem,
    TimedOut,
    UnexpectedAnswer,
)
from fusionlens_client.retries import Attempts, Outcome, retry_after_s

T = TypeVar("T")
Parameter: TypeAlias = "str | int | float"
# The name under which a picture is sent. That of a file is not sent, since it may name a patient.
FILE_NAME = "picture"
SUFFIXES = (".png", ".npy", ".json")


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and what reads the answer to it."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    query: Mapping[str, Parameter]
    picture: bytes | None = None

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """A new request to the service of this client. Raises InvalidInput if it cannot be sent."""
        if http.is_closed:
            raise InvalidInput("This client is closed: make a new one.")
        files = None if self.picture is None else {"file": (FILE_NAME, self.picture, "application/octet-stream")}
        try:
            query = {name: str(value) for name, value in self.query.items()}
            return http.build_request(self.method, self.path, params=query, files=files)
        except (httpx.InvalidURL, ValueError) as error:  # too long, or no text
            raise InvalidInput(f"The question has a value that cannot be sent ({error}): give another one.") from error

    def attempts(self, max_wait_s: float) -> Attempts:
        """What decides whether this call is made again."""
        return Attempts(self.method == "GET", max_wait_s)

    def result(self, outcome: Outcome) -> T:
        """What the last outcome says. Raises Problem, ConnectionFailed and UnexpectedAnswer."""
        if isinstance(outcome, httpx.RequestError):
            raise _failure(outcome) from outcome
        if not outcome.is_success:
            raise problem_of(outcome)
        return self.read(outcome)


class Subject:
    """What is explained: a prediction that the service stores, or else the picture itself, sent with every question."""

    def __init__(self, prediction_id: str | None, picture: bytes | None) -> None:
        self.prediction_id = prediction_id
        self.picture = picture if prediction_id is None else None

    def call(self, path: str, read: Callable[[httpx.Response], T], query: Mapping[str, Parameter]) -> Call[T]:
        """A question about it. Raises InvalidInput if neither the service nor this client has it any more."""
        if self.prediction_id is not None:
            return Call("GET", path, read, {"prediction_id": self.prediction_id, **query})
        if self.picture is None:
            raise InvalidInput("This prediction was forgotten, and the service had not stored it: predict again.")
        return Call("POST", path, read, query, self.picture)


@dataclass(frozen=True)
class Drawing:
    """How a heatmap is drawn over the picture. None stands for the service's default.

    The HTTP reference says what each parameter does; `size` is the longest side in px.
    """

    colormap: str | None = None
    alpha: float | None = None
    alpha_min: float | None = None
    alpha_max: float | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    size: int | None = None
    contour: float | None = None
    threshold: float | None = None


PLAIN = Drawing()


@dataclass(frozen=True)
class Question:
    """A question for a heatmap: about what, at which path, with which parameters."""

    subject: Subject
    path: str
    query: Mapping[str, Parameter]

    def explanation(self) -> Call[dict[str, Any]]:
        """Asks for the values and the facts, as the service's JSON."""
        return self.subject.call(self.path, _json, {**self.query, "format": "json"})

    def png(self, drawing: Drawing) -> Call[bytes]:
        """Asks for the overlay. Of every class, which no picture could show, it is that of the predicted label."""
        query = {name: value for name, value in self.query.items() if (name, value) != ("target", "*")}
        return self.subject.call(self.path, _png, {**query, **parameters(**asdict(drawing)), "format": "png"})


def parameters(**given: Parameter | None) -> dict[str, Parameter]:
    """The parameters of a query, without those that are None."""
    return {name: value for name, value in given.items() if value is not None}


def predict(picture: bytes, coverage: float | None) -> Call[dict[str, Any]]:
    """Classifies a picture."""
    return Call("POST", "/predict", lambda response: fields_of(PredictionAnswer, _json(response)),
                parameters(coverage=coverage), picture)  # fmt: skip


def model() -> Call[ModelCard]:
    """Asks for the card of the model."""
    return Call("GET", "/model", lambda response: decode(ModelCard, _json(response)), {})


def health(kind: str) -> Call[Health]:
    """Asks whether the service is `live` or `ready`."""
    return Call("GET", f"/health/{kind}", lambda response: decode(Health, _json(response)), {})


def similar(subject: Subject, k: int) -> Call[SimilarCases]:
    """Asks for the cases that a picture resembles."""
    return subject.call("/similar", lambda response: decode(SimilarCases, _json(response)), parameters(k=k))


def picture(subject: Subject) -> Call[Image.Image]:
    """Asks for the preview of a stored prediction's picture. Raises InvalidInput if it was not stored."""
    if subject.prediction_id is None:
        raise InvalidInput("The service did not store this prediction, so it has no preview of its picture.")
    return Call("GET", f"/predictions/{subject.prediction_id}/picture", _preview, {})


def forget(subject: Subject) -> Call[None] | None:
    """Asks the service to forget a prediction. None if it has nothing to forget; what is kept here is gone then."""
    subject.picture = None
    if subject.prediction_id is None:
        return None
    return Call("DELETE", f"/predictions/{subject.prediction_id}", lambda response: None, {})


def explanation_fields(content: dict[str, Any]) -> dict[str, Any]:
    """The values of an ExplanationAnswer's fields. Raises UnexpectedAnswer."""
    return fields_of(ExplanationAnswer, content)


def checked_file(path: Path) -> Path:
    """The path of a file to write. Raises InvalidInput if its suffix is not one of `SUFFIXES`."""
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInput(f"{path} has the suffix {path.suffix!r}: choose one of {', '.join(SUFFIXES)}.")
    return path


def file_content(path: Path, array: np.ndarray[Any, Any], answer: dict[str, Any]) -> bytes | None:
    """What a file of this suffix holds: the array, or the service's answer. None for the overlay."""
    if path.suffix.lower() == ".png":
        return None
    if path.suffix.lower() == ".json":
        return json.dumps(answer, ensure_ascii=False, indent=1).encode()
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def opened_png(content: bytes) -> Image.Image:
    """The image of an overlay. Raises UnexpectedAnswer."""
    return _image(content, "PNG")


def problem_of(response: httpx.Response) -> Problem:
    """The error for an answer that is not a success: of the class that its name has, with the service's sentence."""
    facts = _object(response) or {}
    kind, detail = (value if isinstance(value := facts.get(name), str) else "" for name in ("type", "detail"))
    problem_class = PROBLEMS.get(kind.removeprefix(TYPE_PREFIX), Problem) if kind.startswith(TYPE_PREFIX) else Problem
    return problem_class(
        detail or _plain_sentence(response),
        status=response.status_code,
        type=kind,
        retry_after_s=retry_after_s(response),
        request_id=response.headers.get("x-request-id"),
    )


def _plain_sentence(response: httpx.Response) -> str:
    """What to say of an answer that gives no reason, as of a proxy."""
    if response.has_redirect_location:
        return f"The service was asked at {response.url} and redirects to {response.headers['location']}: use that one."
    try:
        phrase = HTTPStatus(response.status_code).phrase
    except ValueError:
        phrase = "an unknown status"
    return f"{response.url} answered {response.status_code} ({phrase}) and gave no reason."


def _failure(error: httpx.RequestError) -> ConnectionFailed | UnexpectedAnswer:
    url = error.request.url.copy_with(path="/", query=None)
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"The service at {url} did not answer in time.")
    if isinstance(error, httpx.ConnectError):
        return ConnectionFailed(f"The service at {url} cannot be reached: {error}.")
    if isinstance(error, httpx.DecodingError):
        return UnexpectedAnswer(f"The answer of {url} cannot be decoded: {error}.")
    return ConnectionFailed(f"The connection to {url} broke off: {error or type(error).__name__}.")


def _object(response: httpx.Response) -> dict[str, Any] | None:
    """The JSON object of an answer. None if it has none, or one of thousands of brackets in each other."""
    try:
        content = response.json()
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _json(response: httpx.Response) -> dict[str, Any]:
    content = _object(response)
    if content is None:
        raise UnexpectedAnswer(f"{response.url} did not answer with JSON: is this the address of a FusionLens service?")
    return content


def _png(response: httpx.Response) -> bytes:
    return _content(response, "image/png")


def _preview(response: httpx.Response) -> Image.Image:
    return _image(_content(response, "image/jpeg"), "JPEG")


def _image(content: bytes, kind: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=[kind])
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnexpectedAnswer(f"The service answered with a {kind} that cannot be read ({error}).") from error
    return image


def _content(response: httpx.Response, media_type: str) -> bytes:
    if response.headers.get("content-type") != media_type:
        raise UnexpectedAnswer(f"{response.url} did not answer with {media_type}: is this a FusionLens service?")
    return response.content
