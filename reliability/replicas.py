"""Real services in processes of their own, and what the kernel says of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_S = 120.0


class Replica:
    """One service, at a fixed address so that it can be started again."""

    def __init__(self, host: str, port: int, folder: Path, core: int | None = None, **settings: str) -> None:
        self.host, self.port, self._core = host, port, core
        self._files: int | None = None
        self.log = folder / f"{host}-{port}.log"
        own = {name: value for name, value in os.environ.items() if not name.startswith("FUSIONLENS_")}
        chosen = {f"FUSIONLENS_{name.upper()}": value for name, value in settings.items()}
        self._environment = own | {"FUSIONLENS_LOG": "json"} | chosen | {"PYTHONPATH": str(ROOT)}
        self._process: subprocess.Popen[bytes] | None = None

    def extend_environment(self, **variables: str) -> None:
        """Variables that are no settings of the service, for its next start."""
        self._environment |= variables

    def limit_files(self, count: int) -> None:
        """How many files it may have open, from its next start."""
        self._files = count

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, wait: bool = True) -> None:
        """Raises RuntimeError if it does not get ready."""
        command = [sys.executable, "-m", "app", "serve", "--host", self.host, "--port", str(self.port)]
        if self._core is not None:
            command = ["taskset", "-c", str(self._core), *command]
        if self._files is not None:
            command = ["prlimit", f"--nofile={self._files}:{self._files}", *command]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Raises RuntimeError if it does not get ready."""
        until = time.monotonic() + START_S
        while not self.is_ready():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self.address} did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def is_ready(self) -> bool:
        try:
            return self.get("/health/ready")[0] == 200
        except OSError:
            return False

    def get(self, path: str, timeout_s: float = 20) -> tuple[int, bytes]:
        """Status and body."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=timeout_s) as answer:
                return int(answer.status), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def post(self, picture: bytes, path: str = "/predict", timeout_s: float = 60) -> tuple[int, bytes]:
        """Status and body."""
        request = urllib.request.Request(self.address + path, picture, {"Content-Type": "image/jpeg"})
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return int(answer.status), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        self.signal(signal.SIGTERM)
        assert self._process is not None
        return self._process.wait(timeout=90)

    def kill(self) -> None:
        """SIGKILL: no time for anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def metric(self, sample: str) -> float:
        """The value of one sample, as it is written in /metrics; 0 where it is not there yet."""
        for line in self.get("/metrics")[1].decode().splitlines():
            if line.startswith(sample + " "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def logged(self) -> list[dict[str, object]]:
        """The lines of its log about requests."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [entry for line in lines if (entry := json.loads(line)).get("event") == "request"]

    def usage(self) -> dict[str, float]:
        """What it takes: memory in MB, open files, threads."""
        process = Path(f"/proc/{self.pid}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return {
            "rss_mb": int(status["VmRSS"].split()[0]) / 1024,
            "files": len(list((process / "fd").iterdir())),
            "threads": int(status["Threads"]),
        }


@contextmanager
def running(*replicas: Replica) -> Iterator[None]:
    """Start them all, and have none left afterwards."""
    try:
        for replica in replicas:
            replica.start(wait=False)
        for replica in replicas:
            replica.wait_until_ready()
        yield
    finally:
        for replica in replicas:
            replica.kill()


@contextmanager
def clients(count: int, ask: Callable[[], None]) -> Iterator[None]:
    """So many threads that run `ask` beside the block; it must end by itself, and its end is waited for."""
    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()
