"""The client that waits for each answer."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import httpx
from PIL import Image

from fusionlens_client import calls
from fusionlens_client.answers import Health, ModelCard, SimilarCases
from fusionlens_client.calls import PLAIN, Call, Drawing, Question, Subject
from fusionlens_client.connection import Received, checked_seconds, http_client
from fusionlens_client.pictures import Picture, picture_bytes
from fusionlens_client.predictions import Drawable, Explainable
from fusionlens_client.retries import Outcome

T = TypeVar("T")


class Client:
    """A FusionLens service at this address, such as `http://localhost:8000`. May be used from several threads.

    `key` is the API key, where the service wants one. One request may wait `max_wait_s` seconds in all when the service
    asks to come back later, and `timeout_s` seconds for each answer. Raises InvalidInput for what cannot be used, also
    for every question once it is closed.
    """

    def __init__(self, url: str, key: str | None = None, *, max_wait_s: float = 30.0, timeout_s: float = 60.0) -> None:
        self._max_wait_s = checked_seconds("max_wait_s", max_wait_s)
        self._http = http_client(httpx.Client, url, key, timeout_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(self, picture: Picture, *, coverage: float | None = None) -> Prediction:
        """Classify a picture: a path, the bytes of a file, a Pillow image, or an array of uint8.

        Arrays are `[h, w]`, `[h, w, 3]` (RGB) or `[h, w, 4]` (RGBA). `coverage` is how often the prediction set of
        `trust` should have the true class. Raises InvalidInput, Problem, ConnectionFailed and UnexpectedAnswer.
        """
        content = picture_bytes(picture)
        fields = self._ask(calls.predict(content, coverage))
        return Prediction(**fields, _subject=Subject(fields["prediction_id"], content), _client=self)

    def model(self) -> ModelCard:
        """The card of the model that answers now."""
        return self._ask(calls.model())

    def live(self) -> Health:
        """Whether the process answers. Raises ConnectionFailed if it does not."""
        return self._ask(calls.health("live"))

    def ready(self) -> Health:
        """Whether the service accepts new clients. Raises NotReady or StoreUnavailable if it does not."""
        return self._ask(calls.health("ready"))

    def _ask(self, call: Call[T]) -> T:
        attempts, outcome = call.attempts(self._max_wait_s), self._send(call)
        while (wait_s := attempts.wait_s(outcome)) is not None:
            time.sleep(wait_s)
            outcome = self._send(call)
        return call.result(outcome)

    def _send(self, call: Call[T]) -> Outcome:
        request = call.request(self._http)
        try:
            with closing(self._http.send(request, stream=True)) as response:
                received = Received(response)
                for chunk in response.iter_bytes():
                    received.add(chunk)
            return received.whole()
        except httpx.RequestError as error:
            return error


@dataclass(frozen=True)
class Prediction(Explainable["Heatmap"]):
    """The answer to a picture, which can be asked for explanations until it expires."""

    _client: Client = field(repr=False, compare=False)

    @property
    def picture(self) -> Image.Image:
        """The upright preview that overlays are drawn on, from the service. Raises InvalidInput if it is not stored."""
        return self._client._ask(calls.picture(self._subject))

    def similar(self, k: int = 5) -> SimilarCases:
        """The `k` training pictures that it resembles most, at most one of each group."""
        return self._client._ask(calls.similar(self._subject, k))

    def forget(self) -> None:
        """Have the service forget this prediction now. Nothing can be asked about it any more."""
        if (call := calls.forget(self._subject)) is not None:
            self._client._ask(call)

    def _ask_heatmap(self, question: Question) -> Heatmap:
        answer = self._client._ask(question.explanation())
        return Heatmap(**calls.explanation_fields(answer), answer=answer, _question=question, _client=self._client)


@dataclass(frozen=True, eq=False)
class Heatmap(Drawable):
    """A signed map of the picture, with the facts about it. A notebook shows it as its overlay."""

    _client: Client = field(repr=False)

    @property
    def overlay(self) -> Image.Image:
        """The map over the upright picture, as the service draws it by default. It is asked each time."""
        return calls.opened_png(self.png())

    def png(self, drawing: Drawing = PLAIN) -> bytes:
        """The map over the upright picture, as the service's PNG."""
        return self._client._ask(self._question.png(drawing))

    def save(self, path: str | PathLike[str]) -> None:
        """Write a file, by its suffix: `.png` the overlay, `.npy` the array, `.json` the service's answer.

        Raises InvalidInput for another suffix, before anything is asked, and OSError if the file cannot be written.
        """
        file = calls.checked_file(Path(path))
        content = calls.file_content(file, self.array, self.answer)
        file.write_bytes(self.png() if content is None else content)

    def _repr_png_(self) -> bytes:
        return self.png()
