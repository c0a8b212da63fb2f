"""One connection of a client over HTTP, which is made anew where the service closed it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from types import TracebackType
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """What came back; `status` is 0 where no whole answer came, and `body` says why then."""

    status: int
    kind: str
    body: str
    took_ms: float


class Client:
    """Sends `headers` with every request. As a context manager, it closes its connection at the end."""

    def __init__(self, address: str, headers: Mapping[str, str] | None = None, timeout_s: float = 40.0) -> None:
        parts = urlsplit(address)
        self._connection = HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
        self._headers = headers or {}

    def post(self, path: str, body: bytes, content_type: str) -> Answer:
        """The answer to a body of this type."""
        return self.send("POST", path, body, content_type)

    def send(self, method: str, path: str, body: bytes, content_type: str) -> Answer:
        """The answer to any request."""
        began = time.perf_counter()
        try:
            self._connection.request(method, path, body, {**self._headers, "Content-Type": content_type})
            with self._connection.getresponse() as response:
                text, kind = response.read().decode("utf-8", "replace"), response.headers.get("Content-Type", "")
            return Answer(response.status, kind, text, _ms_since(began))
        except (OSError, HTTPException) as error:
            self._connection.close()
            return Answer(0, "", f"{type(error).__name__}: {error}", _ms_since(began))

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1e3
