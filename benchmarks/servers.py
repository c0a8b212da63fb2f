"""The servers that are loaded in turn: how each is started, asked, weighed and stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from benchmarks.client import Client
from benchmarks.memory_steps import pss_mb, sizes_kb
from benchmarks.models import Case

START_S = 180
LIT, FASTAPI = "benchmarks.rivals.lit_server", "benchmarks.rivals.fastapi_server"


@dataclass(frozen=True)
class Server:
    """A module to run, with `--port` added; `asked` is the path that gets the picture, `health` answers when ready."""

    name: str
    command: tuple[str, ...]
    asked: str
    health: str
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Running:
    """A server that is ready."""

    server: Server
    address: str
    process: subprocess.Popen[bytes]

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let its processes run for a while, then stop them: LitServe's workers poll while they are idle."""
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGSTOP)

    def memory_mb(self) -> float:
        """Resident memory in MB, of all its processes: what each has alone, and what they share once."""
        weighed = [_memory_kb(pid) for pid in _tree(self.process.pid)]
        private_kb = sum(private for _, private in weighed)
        return (private_kb + max(resident - private for resident, private in weighed)) * 1024 / 1e6

    def pss_mb(self) -> float:
        """The proportional set size of all its processes, in MB."""
        return sum(pss_mb(pid) for pid in _tree(self.process.pid))


def own_server(case: Case, engine: str) -> Server:
    """FusionLens, asked for an explained prediction."""
    settings = {"FUSIONLENS_ENGINE": engine, "FUSIONLENS_CACHE": str(case.cache)}
    command = ("app", "serve", "--bundle", str(case.bundle))
    return Server(f"FusionLens, {engine}", command, "/gradcam?format=json&method=gradcam", "/health/ready", settings)


def lit_server(case: Case, answer: str, workers: int, threads: int, batch: int = 1) -> Server:
    """LitServe with so many workers of so many threads; `answer` is `bare` or `gradcam`."""
    kind = {"bare": "bare", "gradcam": "pytorch-grad-cam"}[answer]
    name = f"LitServe, {kind}, {workers} × {threads}" + (f", batches of {batch}" if batch > 1 else "")
    options = {"answer": answer, "workers": workers, "threads": threads, "batch": batch}
    flags = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    return Server(name, (LIT, str(case.bundle), *flags), "/predict", "/health")


def fastapi_server(case: Case) -> Server:
    """FastAPI with pytorch-grad-cam."""
    return Server("FastAPI, pytorch-grad-cam", (FASTAPI, str(case.bundle)), "/predict", "/health")


def environment(settings: dict[str, str]) -> dict[str, str]:
    """This process's environment with no settings of the service but these."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FUSIONLENS_")} | settings


@contextmanager
def running(server: Server) -> Iterator[Running]:
    """Start a server on a free port and wait until it is ready; with all its processes it is gone afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", *server.command, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        env=environment(server.settings),
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, server, address)
        yield Running(server, address, process)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        os.killpg(process.pid, signal.SIGCONT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        os.killpg(process.pid, signal.SIGKILL)  # workers that outlived their parent
    process.wait()


def _wait(process: subprocess.Popen[bytes], server: Server, address: str) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"{server.name} ended before it was ready")
        try:
            Client(address).get(server.health)
            return
        except (OSError, HTTPException, RuntimeError):
            time.sleep(0.1)
    raise RuntimeError(f"{server.name} was not ready within {START_S} s")


def _tree(pid: int) -> list[int]:
    """A process and its descendants, whichever of its threads started them."""
    started = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    children = [int(child) for of_thread in started for child in of_thread]
    return [pid, *(descendant for child in children for descendant in _tree(child))]


def _memory_kb(pid: int) -> tuple[int, int]:
    """Resident, and of that what no other process has."""
    sizes = sizes_kb(pid)
    return sizes["Rss"], sizes["Private_Clean"] + sizes["Private_Dirty"]
