"""A server in a process of its own that one request kills: python -m …proxied.mortal ADDRESS FILE.

It writes a line to FILE for every request that it has taken in whole. Then it kills itself, without an answer, if the
body or the query has `deadly` in it: as a process ends that a picture takes over, or that has no memory left.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import uvicorn

DEADLY = b"deadly"


class Mortal:
    """The application, which notes what reaches it."""

    def __init__(self, address: str, notes: Path) -> None:
        self._address, self._notes = address, notes

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        with self._notes.open("a") as notes:
            notes.write(f"{self._address} {scope['path']}\n")
        if DEADLY in body or DEADLY in scope["query_string"]:
            os.kill(os.getpid(), signal.SIGKILL)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self._address.encode()})


if __name__ == "__main__":
    uvicorn.run(Mortal(sys.argv[1], Path(sys.argv[2])), host=sys.argv[1], port=8000, lifespan="off", log_config=None)
