"""Passes connections on to a server, and notes what they ask for."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import suppress


class Relay(socketserver.ThreadingTCPServer):
    """Listens at one address and passes on to another; `targets` are what the first lines of requests ask for.

    It sees the first request of a connection alone: use it where each request has its own.
    """

    allow_reuse_address, daemon_threads = True, True

    def __init__(self, address: tuple[str, int], to: tuple[str, int]) -> None:
        self.to, self.targets = to, list[str]()
        super().__init__(address, _Connection)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Connection(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        first = b""
        while b"\r\n" not in first and (part := self.request.recv(65536)):
            first += part
        if not first:
            return
        _, _, target = first.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        self.server.targets.append(target.rpartition(" ")[0])
        with socket.create_connection(self.server.to) as onward:
            onward.sendall(first)
            back = threading.Thread(target=_pass_on, args=(onward, self.request))
            back.start()
            _pass_on(self.request, onward)
            back.join()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):  # one side has gone
        while part := source.recv(65536):
            sink.sendall(part)
        sink.shutdown(socket.SHUT_WR)
