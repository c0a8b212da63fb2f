"""A client that costs little: one kept-alive connection of the standard library, the request's bytes made once."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

BOUNDARY = "fusionlens-benchmark"
TIMEOUT_S = 120
IDLE_S = 4  # uvicorn closes a connection that is idle for 5 s, by default


@dataclass(frozen=True)
class Answer:
    """Status and body of a response."""

    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection to one server, opened anew after a pause. Raises OSError or HTTPException where it breaks."""

    def __init__(self, address: str) -> None:
        host = urlsplit(address)
        assert host.hostname is not None
        self._connection = HTTPConnection(host.hostname, host.port, timeout=TIMEOUT_S)
        self._last_used = time.monotonic()

    def get(self, path: str) -> Answer:
        """Raises RuntimeError for any status but 200."""
        return self._ask("GET", path, None, {})

    def post(self, path: str, picture: bytes) -> Answer:
        """Send a picture as a form with a field `file`. Raises RuntimeError for any status but 200."""
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self._ask("POST", path, form(picture), kind)

    def close(self) -> None:
        self._connection.close()

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        if time.monotonic() - self._last_used > IDLE_S:
            self.close()  # the request opens another
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        answer = Answer(response.status, response.read())
        self._last_used = time.monotonic()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.body[:300]!r}")
        return answer


@lru_cache(maxsize=4)
def form(picture: bytes) -> bytes:
    """The body of a multipart form with the picture in a field `file`."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="picture.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()
