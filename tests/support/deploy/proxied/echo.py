"""A small server that answers with what reached it, or breaks off as a killed process does."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar


class Echo(BaseHTTPRequestHandler):
    """Answers with its address, method, path and the digest of the body; tears its answer off if the path says so."""

    protocol_version = "HTTP/1.1"
    breaks: ClassVar[set[str]] = set()  # addresses of replicas that take a request in and then are gone
    seen: ClassVar[Counter[str]] = Counter()  # requests that reached a replica, by path
    answers_with: ClassVar[dict[str, str]] = {}  # headers of every answer
    connections: ClassVar[list[tuple[str, socket.socket]]] = []  # with the address that they came to

    def setup(self) -> None:
        super().setup()
        self.connections.append((self.connection.getsockname()[0], self.connection))

    def do_GET(self) -> None:
        address, path = str(self.connection.getsockname()[0]), self.path.partition("?")[0]
        self.seen[self.path] += 1
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if address in self.breaks or len(body) < length:
            self.close_connection = True
            return
        said = f"{address} {self.command} {path} {len(body)} {hashlib.sha256(body).hexdigest()}".encode()
        self.close_connection = "torn" in path
        self.send_response(200)
        self.send_header("Content-Length", str(len(said) + 100 * self.close_connection))
        for name, value in self.answers_with.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else said)

    do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Not here."""


class Echoes:
    """One at each of these addresses."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self._servers = {address: ThreadingHTTPServer((address, 8000), Echo) for address in addresses}
        for server in self._servers.values():
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def end(self, address: str) -> None:
        """As when its process ends: nothing listens there, and its connections are closed."""
        self._servers[address].shutdown()
        self._servers[address].server_close()
        for at, connection in Echo.connections:
            if at == address:
                with suppress(OSError):  # closed already
                    connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def broken(*addresses: str) -> Iterator[None]:
    """These break off."""
    Echo.breaks.update(addresses)
    yield
    Echo.breaks.clear()
