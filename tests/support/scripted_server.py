"""A real HTTP server on a socket that gives the answers it was told, one after the other, and keeps the requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

JSON = "application/json"


@dataclass(frozen=True)
class Answer:
    """What is answered."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = JSON


HANG_UP = None  # in place of an answer: the connection ends once the request has been read


@dataclass(frozen=True)
class Received:
    """A request, and when it had arrived by the monotonic clock."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    at_s: float


@dataclass(frozen=True)
class Scripted:
    """The address of a server, and the requests that it has received so far."""

    address: str
    requests: list[Received]


@contextmanager
def scripted(*answers: Answer | None) -> Iterator[Scripted]:
    """A server that gives these answers in turn, and the last of them from then on."""
    requests: list[Received] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            requests.append(Received(self.command, self.path, dict(self.headers), body, time.monotonic()))
            answer = answers[min(len(requests), len(answers)) - 1]
            if answer is HANG_UP:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Type": answer.media_type}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_POST = do_DELETE = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield Scripted(f"http://127.0.0.1:{server.server_port}", requests)
        finally:
            server.shutdown()
            thread.join()
