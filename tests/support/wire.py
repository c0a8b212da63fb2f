"""Connections spoken to byte by byte, for what no HTTP client would send."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import Parser

import httpx

from tests.support.waiting import PATIENCE_S

Answered = tuple[int, dict[str, str], bytes]


@contextmanager
def connected(client: httpx.Client, *pieces: bytes) -> Iterator[socket.socket]:
    """A connection over which these bytes were sent."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=PATIENCE_S) as connection:
        for piece in pieces:
            connection.sendall(piece)
        yield connection


def answers(connection: socket.socket, count: int = 1) -> list[Answered]:
    """Status, headers and body of the next answers. Raises ConnectionError where there is none."""
    found, file = [], connection.makefile("rb")
    for _ in range(count):
        if not (line := file.readline()):
            raise ConnectionError("closed without an answer")
        lines = b"".join(iter(file.readline, b"\r\n")).decode("latin-1")
        headers = {name.lower(): value for name, value in Parser().parsestr(lines).items()}
        found.append((int(line.split()[1]), headers, file.read(int(headers["content-length"]))))
    return found


def answer(connection: socket.socket) -> Answered:
    """The next answer."""
    return answers(connection)[0]


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed, or closes, without another byte. Raises TimeoutError if it does neither."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def is_problem(found: Answered, status: int, name: str) -> bool:
    """Whether this answer is the problem of that name."""
    problem = json.loads(found[2])
    return (found[0], problem["status"], problem["type"]) == (status, status, f"urn:fusionlens:problem:{name}")


def drip(connection: socket.socket, piece: bytes, pause_s: float) -> None:
    """Send one piece again and again, until there is an answer. Raises TimeoutError if there is none."""
    until_s = time.monotonic() + PATIENCE_S
    while not select.select([connection], [], [], pause_s)[0]:
        connection.sendall(piece)
        if time.monotonic() > until_s:
            raise TimeoutError("it goes on for ever")


def accepts(port: int) -> bool:
    """Whether something listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
    except ConnectionRefusedError:
        return False
    return True


def half_closed(connection: socket.socket) -> socket.socket:
    """The connection, after this side has said that nothing more will come."""
    connection.shutdown(socket.SHUT_WR)
    return connection
