"""A real Redis server for a test: Debian's, on a socket in a folder, with nothing written to disk."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.programs import tool
from tests.support.waiting import wait_until

PASSWORD = "of-the-test"
SECRET = "a secret of the tests, of 32 characters or more"


class RedisServer:
    """Can be stopped and started again; what it kept is gone then."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self.socket = folder / "redis.sock"
        self.url = f"unix://:{PASSWORD}@{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> dict[str, str]:
        """What the service is told."""
        return {"redis_url": self.url, "redis_secret": SECRET}

    def start(self) -> None:
        options = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [self._program, *options, "--requirepass", PASSWORD], stdout=subprocess.DEVNULL
        )
        wait_until(self._answers)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as asking:
            try:
                asking.connect(str(self.socket))
                asking.sendall(b"PING\r\n")
                return bool(asking.recv(100))
            except OSError:
                return False


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """Skips the test loudly where there is no redis-server, and fails where CI should have installed it."""
    server = RedisServer(tool("redis-server"), folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
