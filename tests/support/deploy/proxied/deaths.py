"""Caddy in front of three processes that one request kills: python -m …proxied.deaths CADDY CADDYFILE FOLDER."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from tests.support.deploy import loopback
from tests.support.deploy.proxied.caddy import Proxy, proxying
from tests.support.waiting import PATIENCE_S, wait_until

ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n6\r\ndeadly\r\n0\r\n\r\n"
HEADERS = ("", "Idempotency-Key: 1\r\n")  # for which Go, beneath Caddy, sends again


class Replicas:
    """The processes."""

    def __init__(self, notes: Path) -> None:
        self._notes, self._running = notes, dict[str, subprocess.Popen[bytes]]()
        notes.touch()
        self.start_missing()

    def start_missing(self) -> None:
        for address in ADDRESSES:
            if address not in self.alive:
                command: list[str | Path] = [
                    sys.executable,
                    "-m",
                    "tests.support.deploy.proxied.mortal",
                    address,
                    self._notes,
                ]
                self._running[address] = subprocess.Popen(command)
        for address in ADDRESSES:
            loopback.wait_for(address, 8000, within_s=PATIENCE_S)

    @property
    def alive(self) -> set[str]:
        return {address for address, process in self._running.items() if process.poll() is None}

    def reached_by(self, path: str) -> list[str]:
        """The addresses that a request reached, in this order."""
        lines = (line.split() for line in self._notes.read_text().splitlines())
        return [address for address, reached in lines if reached == path]

    def end(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait(timeout=PATIENCE_S)


def deadly_requests() -> Iterable[tuple[str, bytes]]:
    """The path and the bytes of each."""
    bodies = {"none": b"", "small": b"deadly", "4 MB": b"deadly" + b"x" * 4_000_000, "chunked": b""}
    methods = ("GET", "HEAD", "OPTIONS", "DELETE", "PUT")
    cases = [*product(("POST",), bodies, HEADERS), *product(methods, ("none",), HEADERS)]
    for number, (method, size, header) in enumerate(cases):
        path, body = f"/predict/{number}", bodies[size]
        query = "?deadly" if size == "none" else ""
        head = f"{method} {path}{query} HTTP/1.1\r\nHost: localhost\r\n{header}"
        length = b"" if method in ("GET", "HEAD") and not body else f"Content-Length: {len(body)}\r\n".encode()
        yield path, head.encode() + (CHUNKED if size == "chunked" else length + b"\r\n" + body)


def main(caddy: str, caddyfile: Path, folder: Path) -> None:
    loopback.up()
    loopback.resolve(folder, api=ADDRESSES)
    replicas, kinds = Replicas(folder / "notes"), 0
    try:
        with proxying(caddy, caddyfile, folder) as proxy:
            for path, request in deadly_requests():
                one_dies_and_no_other(proxy, replicas, path, request)
                kinds += 1
    finally:
        replicas.end()
    print(f"{kinds} kinds of deadly requests reached one replica each, and nothing else was lost")


def one_dies_and_no_other(proxy: Proxy, replicas: Replicas, path: str, request: bytes) -> None:
    replicas.start_missing()
    everyone_is_answered(proxy, replicas)
    answer = proxy.send(request)
    assert answer[0] == 502, (request[:80], answer)
    reached = replicas.reached_by(path)
    assert len(reached) == 1, (request[:200], reached)
    wait_until(lambda: replicas.alive == {*ADDRESSES} - {*reached})
    everyone_is_answered(proxy, replicas)


def everyone_is_answered(proxy: Proxy, replicas: Replicas) -> None:
    """Whatever the method, by those that are alive, each of which is asked."""
    body, answered = b"x" * 300_000, set[str]()
    for method in ("GET", "POST", "DELETE") * 2:
        status, said, _ = proxy.ask(method, "/other", body if method == "POST" else b"")
        assert status == 200, (method, status, said)
        answered |= {*said}
    assert answered == replicas.alive, (answered, replicas.alive)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
