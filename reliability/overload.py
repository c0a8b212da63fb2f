"""Ten times more requests than one replica can answer: the accepted are answered in time, the rest told at once."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.timing import percentile
from reliability.open_loop import sending
from reliability.replicas import Replica, clients, running

CAPACITY_S, CLIENTS = 15.0, 4


@dataclass(frozen=True)
class Overload:
    """Times are the server's own, from its log; `grown_mb` is its memory's growth from the first third to the last."""

    capacity_per_s: float
    rate_per_s: float
    seconds: float
    statuses: dict[int, int]
    goodput_per_s: float
    accepted_p99_s: float
    deadline_s: float
    refused_p50_ms: float
    refused_p99_ms: float
    without_retry_after: int
    grown_mb: float
    sender_late_ms: float

    @property
    def goodput(self) -> float:
        """Of capacity."""
        return self.goodput_per_s / self.capacity_per_s


def overload(bundle: Path, picture: Path, folder: Path, seconds: float, times: float = 10.0) -> Overload:
    """Server and sender on a core each."""
    settings = {"bundle": str(bundle), "threads": "1", "queue_limit": "16", "deadline_s": "10"}
    settings["store_max_bytes"] = "20000000"  # full before the load begins, so that what grows is something else
    replica = Replica("127.0.0.1", 8101, folder, core=0, **settings)
    with running(replica):
        capacity = measure_capacity(replica, picture, CAPACITY_S)
        before, count = len(replica.logged()), round(times * capacity * seconds)
        with sending(replica.address, picture, times * capacity, count, core=1) as sender:
            memory_mb = _watch(replica, seconds)
            load = sender.finished()
        inside = replica.logged()[before:]
    accepted, refused = ([_ms(one) for one in inside if one["status"] == status] for status in (200, 429))
    wall_s = max(one.began_s + one.took_ms / 1e3 for one in load.of(200))
    third = max(1, len(memory_mb) // 3)
    return Overload(
        capacity,
        times * capacity,
        seconds,
        load.statuses,
        len(load.of(200)) / wall_s,
        percentile(accepted, 99) / 1e3,
        float(settings["deadline_s"]),
        median(refused),
        percentile(refused, 99),
        sum(one.retry_after_s is None for one in load.of(429)),
        median(memory_mb[-third:]) - median(memory_mb[:third]),
        load.late_ms,
    )


def measure_capacity(replica: Replica, picture: Path, seconds: float) -> float:
    """Predictions a second with a few clients that always wait for the last answer."""
    content, until, answered = picture.read_bytes(), time.monotonic() + seconds, []

    def ask() -> None:
        while time.monotonic() < until:
            status, _ = replica.post(content)
            answered.append(status)

    began = time.monotonic()
    with clients(CLIENTS, ask):
        pass
    assert {*answered} == {200}, answered
    return len(answered) / (time.monotonic() - began)


def hung_up(bundle: Path, picture: Path, folder: Path, count: int = 100) -> tuple[int, int]:
    """Passes of the trunk that clients caused who left while they waited, and how many clients these were."""
    replica = Replica("127.0.0.1", 8102, folder, bundle=str(bundle), threads="1", queue_limit="200")
    trunk = 'fusionlens_stage_duration_seconds_count{stage="trunk"}'
    content = picture.read_bytes()
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\ncontent-length: {len(content)}\r\n\r\n"
    with running(replica):
        replica.post(content)
        before = replica.metric(trunk)
        waiting = [socket.create_connection((replica.host, replica.port)) for _ in range(count)]
        for connection in waiting:
            connection.sendall(head.encode() + content)
        for connection in waiting:
            connection.close()
        time.sleep(3.0)
        status, _ = replica.post(content)
        assert status == 200
        return round(replica.metric(trunk) - before - 1), count


def _watch(replica: Replica, seconds: float) -> list[float]:
    until, memory_mb = time.monotonic() + seconds, []
    while time.monotonic() < until:
        memory_mb.append(replica.usage()["rss_mb"])
        time.sleep(0.5)
    return memory_mb


def _ms(entry: dict[str, object]) -> float:
    return float(str(entry["duration_ms"]))
