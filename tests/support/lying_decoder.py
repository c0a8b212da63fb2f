"""A decoder that a hostile picture has taken over: run in place of `app.pictures.worker`.

The picture that it is sent is the name of the lie that it answers with.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from app.pictures.messages import BrokenMessage, receive_message, send_message

FACTS: dict[str, Any] = {"width_px": 30, "height_px": 20, "format": "PNG", "notes": [], "preview_size": [20, 30]}
PIXELS = bytes(8 * 8 * 3 + 20 * 30 * 3)  # a model's input of 8 × 8 px and the preview


def facts(**changes: Any) -> Callable[[socket.socket], None]:
    return lambda connection: send_message(connection, FACTS | changes, PIXELS)


def raw(sent: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(sent)


def lengths(facts_bytes: int, pixels: int) -> bytes:
    return struct.pack(">II", facts_bytes, pixels)


def cut_off(connection: socket.socket) -> None:
    connection.sendall(lengths(30, 30))
    connection.close()


def not_at_all(connection: socket.socket) -> None:
    time.sleep(600)


LIES: dict[str, Callable[[socket.socket], None]] = {
    "no message": raw(b"GET / HTTP/1.1\r\n\r\n"),
    "four gigabytes": raw(lengths(2, 2**32 - 1) + b"{}"),
    "four gigabytes of facts": raw(lengths(2**32 - 1, 0)),
    "no JSON": raw(lengths(4, 0) + b"\x80\x04N."),  # a pickle
    "no object": raw(lengths(2, 0) + b"[]"),
    "deep JSON": raw(lengths(60_000, 0) + b"[" * 60_000),
    "no number": raw(
        lengths(len(json.dumps(FACTS)) + 20, 0) + json.dumps(FACTS).replace("30", "NaN").encode().ljust(200)
    ),
    "fewer pixels": lambda connection: send_message(connection, FACTS, PIXELS[:-1]),
    "more pixels": lambda connection: send_message(connection, FACTS, PIXELS + b"."),
    "another preview": facts(preview_size=[30, 21]),
    "a preview of no pixels": facts(preview_size=[0, 30]),
    "no preview": facts(preview_size=None),
    "a large preview": facts(preview_size=[1, 600]),
    "a picture beyond the limits": facts(width_px=10**6, height_px=10**6),
    "a negative width": facts(width_px=-30),
    "a fraction": facts(width_px=30.5),
    "another format": facts(format="SVG"),
    "a fact of its own": facts(path="/etc/passwd"),
    "many notes": facts(notes=["note"] * 1000),
    "a long note": facts(notes=["n" * 10_000]),
    "another error": lambda connection: send_message(connection, {"error": "SystemExit", "message": "end"}),
    "a long message": lambda connection: send_message(
        connection, {"error": "UnreadablePicture", "message": "m" * 9999}
    ),
    "a part of an answer": cut_off,
    "no answer": not_at_all,
    "the truth": facts(),
}


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    send_message(connection, {"memory_is_limited": True})
    with contextlib.suppress(OSError, BrokenMessage):
        while True:
            _, data = receive_message(connection, 10**6)
            LIES[data.decode()](connection)
    not_at_all(connection)


if __name__ == "__main__":
    main()
