"""Load and memory of servers, as the benchmark measures them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from benchmarks.load import drive
from benchmarks.servers import Running, Server, running


class EveryFourthFails(BaseHTTPRequestHandler):
    """A server that loses one request of four, and knows what it was sent."""

    protocol_version = "HTTP/1.1"
    bodies: list[bytes]
    turn: threading.Lock

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.turn:
            self.bodies.append(body)
            status = 500 if len(self.bodies) % 4 == 0 else 200
        answer = json.dumps({"prediction_id": "x"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def failing_server() -> Iterator[tuple[str, list[bytes]]]:
    handler = type("Handler", (EveryFourthFails,), {"bodies": [], "turn": threading.Lock()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.bodies  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def test_load_counts_what_is_lost_and_every_request_once(failing_server: tuple[str, list[bytes]]) -> None:
    address, bodies = failing_server
    load = drive(address, "/predict", b"a picture", clients=3, seconds=1.0, watch=False)
    assert load.latencies_ms and load.lost
    assert len(load.lost) == len(bodies) // 4
    assert len(load.latencies_ms) + len(load.lost) == len(bodies)
    assert load.per_second == pytest.approx(len(load.latencies_ms) / load.wall_s)
    assert all(b"a picture" in body for body in bodies)


def test_memory_that_processes_share_is_counted_once() -> None:
    shared = "import os, sys; held = b'x' * 150_000_000; os.fork(); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", shared], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline(), process.stdout.readline()
        memory_mb = Running(Server("", (), "", ""), "", process).memory_mb()
        process.stdin.close()
    assert 150 < memory_mb < 220


def test_a_server_that_cannot_start_is_named() -> None:
    with (
        pytest.raises(RuntimeError, match="broken ended before it was ready"),
        running(Server("broken", ("nothing",), "", "/")),
    ):
        pass
