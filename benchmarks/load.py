"""Closed-loop load, from a process of its own: each client sends its next request when it has its answer.

python -m benchmarks.load ADDRESS PATH PICTURE --clients N --seconds S [--watch] prints what was measured as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from itertools import count
from pathlib import Path

from benchmarks.client import Client
from benchmarks.timing import percentile

WATCH_PAUSE_S = 0.2
LOST_PAUSE_S = 0.5  # a server that refuses at once must not be asked in a tight loop


@dataclass(frozen=True)
class Load:
    """One run of load: what every answered request took, and what was lost.

    `wall_s` is the time from the first request to the last answer: clients stop asking after the time set, but what
    was asked is waited for and counts. `watched_ms` are the times of single requests for stored explanations
    meanwhile, `client_cpu_s` what the load itself took from the cores.
    """

    clients: int
    wall_s: float
    client_cpu_s: float
    latencies_ms: list[float] = field(default_factory=list)
    watched_ms: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return len(self.latencies_ms) / self.wall_s

    def at(self, percent: float) -> float:
        """The latency at a percentile, in ms."""
        return percentile(self.latencies_ms, percent)

    @classmethod
    def run(cls, address: str, path: str, picture: Path, clients: int, seconds: float, *options: str) -> Load:
        """Load a server from another process. Raises RuntimeError if that process fails."""
        where = [address, path, str(picture), "--clients", str(clients), "--seconds", str(seconds), *options]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.load", *where], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"the load on {address} failed:\n{done.stderr}")
        return cls(**json.loads(done.stdout))


def drive(address: str, path: str, picture: bytes, clients: int, seconds: float, watch: bool) -> Load:
    """Load the server at `address` with `clients` threads; with `watch`, one more asks for stored explanations."""
    until = time.perf_counter() + seconds
    latencies_ms: list[float] = []
    watched_ms: list[float] = []
    lost: list[str] = []

    def repeat(client: Client, ask: Callable[[], object], taken_ms: list[float], pause_s: float) -> None:
        while (began := time.perf_counter()) < until:
            try:
                ask()
                taken_ms.append((time.perf_counter() - began) * 1e3)
            except (RuntimeError, OSError, HTTPException) as error:
                lost.append(str(error))
                client.close()
                time.sleep(LOST_PAUSE_S)
            time.sleep(pause_s)

    threads = []
    if watch:
        watcher = Client(address)
        stored = watcher.post("/predict", picture).json()["prediction_id"]
        opacity = count(0.5, 1e-6)  # another each time: what was asked before would be answered without any work
        explain = lambda: watcher.get(f"/gradcam?prediction_id={stored}&method=gradcam&alpha_max={next(opacity):.6f}")  # noqa: E731
        threads.append(threading.Thread(target=repeat, args=(watcher, explain, watched_ms, WATCH_PAUSE_S)))
    for client in [Client(address) for _ in range(clients)]:
        ask = lambda client=client: client.post(path, picture)  # noqa: E731
        threads.append(threading.Thread(target=repeat, args=(client, ask, latencies_ms, 0)))
    began, cpu_s = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall_s = time.perf_counter() - began
    return Load(clients, wall_s, time.process_time() - cpu_s, latencies_ms, watched_ms, lost)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load")
    parser.add_argument("address")
    parser.add_argument("path")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--watch", action="store_true", help="also ask for a stored explanation, one at a time")
    args = parser.parse_args()
    measured = drive(args.address, args.path, args.picture.read_bytes(), args.clients, args.seconds, args.watch)
    print(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main()
