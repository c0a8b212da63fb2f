"""The client whose answers are awaited, for asyncio. It asks and answers what `client` does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import aclosing
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
from fusionlens_client.errors import InvalidInput
from fusionlens_client.pictures import Picture, picture_bytes
from fusionlens_client.predictions import Drawable, Explainable
from fusionlens_client.retries import Outcome

T = TypeVar("T")


class AsyncClient:
    """A FusionLens service, as in `Client`, for asyncio. It belongs to the event loop in which it is used first."""

    def __init__(self, url: str, key: str | None = None, *, max_wait_s: float = 30.0, timeout_s: float = 60.0) -> None:
        self._max_wait_s = checked_seconds("max_wait_s", max_wait_s)
        self._http = http_client(httpx.AsyncClient, url, key, timeout_s)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Raises InvalidInput in another event loop than that of the questions."""
        if not self._http.is_closed:
            self._check_loop()
            await self._http.aclose()

    async def predict(self, picture: Picture, *, coverage: float | None = None) -> AsyncPrediction:
        """Classify a picture, as in `Client.predict`. Files are read, and images encoded, in a thread."""
        content = await asyncio.to_thread(picture_bytes, picture)
        fields = await self._ask(calls.predict(content, coverage))
        return AsyncPrediction(**fields, _subject=Subject(fields["prediction_id"], content), _client=self)

    async def model(self) -> ModelCard:
        """The card of the model that answers now."""
        return await self._ask(calls.model())

    async def live(self) -> Health:
        """Whether the process answers. Raises ConnectionFailed if it does not."""
        return await self._ask(calls.health("live"))

    async def ready(self) -> Health:
        """Whether the service accepts new clients. Raises NotReady or StoreUnavailable if it does not."""
        return await self._ask(calls.health("ready"))

    async def _ask(self, call: Call[T]) -> T:
        attempts, outcome = call.attempts(self._max_wait_s), await self._send(call)
        while (wait_s := attempts.wait_s(outcome)) is not None:
            await asyncio.sleep(wait_s)
            outcome = await self._send(call)
        return call.result(outcome)

    async def _send(self, call: Call[T]) -> Outcome:
        request = call.request(self._http)
        self._check_loop()
        try:
            async with aclosing(await self._http.send(request, stream=True)) as response:
                received = Received(response)
                async for chunk in response.aiter_bytes():
                    received.add(chunk)
            return received.whole()
        except httpx.RequestError as error:
            return error

    def _check_loop(self) -> None:
        """Connections cannot leave their event loop. Raises InvalidInput in another one."""
        self._loop = self._loop or asyncio.get_running_loop()
        if self._loop is not asyncio.get_running_loop():
            raise InvalidInput("This client was used in another event loop: make a new one for each asyncio.run.")


@dataclass(frozen=True)
class AsyncPrediction(Explainable[Awaitable["AsyncHeatmap"]]):
    """The answer to a picture, which can be asked for explanations until it expires."""

    _client: AsyncClient = field(repr=False, compare=False)

    async def picture(self) -> Image.Image:
        """The upright preview that overlays are drawn on, from the service. Raises InvalidInput if it is not stored."""
        return await self._client._ask(calls.picture(self._subject))

    async def similar(self, k: int = 5) -> SimilarCases:
        """The `k` training pictures that it resembles most, at most one of each group."""
        return await self._client._ask(calls.similar(self._subject, k))

    async def forget(self) -> None:
        """Have the service forget this prediction now. Nothing can be asked about it any more."""
        if (call := calls.forget(self._subject)) is not None:
            await self._client._ask(call)

    async def _ask_heatmap(self, question: Question) -> AsyncHeatmap:
        answer = await self._client._ask(question.explanation())
        return AsyncHeatmap(**calls.explanation_fields(answer), answer=answer, _question=question, _client=self._client)


@dataclass(frozen=True, eq=False)
class AsyncHeatmap(Drawable):
    """A signed map of the picture, with the facts about it."""

    _client: AsyncClient = field(repr=False)

    async def overlay(self) -> Image.Image:
        """The map over the upright picture, as the service draws it by default. It is asked each time."""
        return calls.opened_png(await self.png())

    async def png(self, drawing: Drawing = PLAIN) -> bytes:
        """The map over the upright picture, as the service's PNG."""
        return await self._client._ask(self._question.png(drawing))

    async def save(self, path: str | PathLike[str]) -> None:
        """Write a file, as in `Heatmap.save`."""
        file = calls.checked_file(Path(path))
        content = calls.file_content(file, self.array, self.answer)
        file.write_bytes(await self.png() if content is None else content)
