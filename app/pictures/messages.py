"""Messages between the service and a process that decodes pictures: a JSON object, and raw bytes.

A message is two lengths of four bytes each, big-endian, then the JSON object and the raw bytes. Nothing in it is
executed or unpickled: a decoder that a hostile picture has taken over can send wrong pixels, and nothing else.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_LENGTHS = struct.Struct(">II")
_MAX_FACTS_BYTES = 64 * 1024


class BrokenMessage(Exception):
    """What the other side sent is not a message."""


class ConnectionEnded(BrokenMessage):
    """The other side has ended."""


def send_message(connection: socket.socket, facts: dict[str, Any], *blobs: bytes | memoryview) -> None:
    """Send an object and, as one piece, the raw bytes. Raises ConnectionEnded."""
    encoded = json.dumps(facts).encode()
    size = sum(len(blob) for blob in blobs)
    try:
        connection.sendall(_LENGTHS.pack(len(encoded), size) + encoded)
        for blob in blobs:
            connection.sendall(blob)
    except OSError as error:
        raise ConnectionEnded from error


def receive_message(connection: socket.socket, max_bytes: int) -> tuple[dict[str, Any], bytearray]:
    """Receive an object and at most `max_bytes` raw bytes. Raises BrokenMessage and ConnectionEnded."""
    try:
        facts_bytes, size = _LENGTHS.unpack(_receive(connection, _LENGTHS.size))
        if facts_bytes > _MAX_FACTS_BYTES or size > max_bytes:
            raise BrokenMessage("it is too long")
        facts = json.loads(bytes(_receive(connection, facts_bytes)))
        if not isinstance(facts, dict):
            raise BrokenMessage("it is no object")
        return facts, _receive(connection, size)
    except OSError as error:
        raise ConnectionEnded from error
    except (ValueError, RecursionError) as error:
        raise BrokenMessage(str(error)) from error


def _receive(connection: socket.socket, size: int) -> bytearray:
    received = bytearray(size)
    rest = memoryview(received)
    while rest:
        count = connection.recv_into(rest)
        if count == 0:
            raise ConnectionEnded
        rest = rest[count:]
    return received
