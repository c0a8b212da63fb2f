"""Steady load for minutes or hours: memory, open files and threads stay where they are."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from reliability.replicas import Replica, clients, running

CLIENTS, SETTLING = 3, 0.2


@dataclass(frozen=True)
class Soak:
    """Medians of the first and the last fifth of the time after settling."""

    minutes: float
    requests: int
    failed: int
    rss_mb: tuple[float, float]
    files: tuple[float, float]
    threads: tuple[float, float]


def soak(bundle: Path, picture: Path, folder: Path, minutes: float) -> Soak:
    """Clients predict, explain and forget, or let expire; the store has little room, so that it is always full."""
    replica = Replica("127.0.0.1", 8110, folder, bundle=str(bundle), store_max_bytes="5000000", store_ttl_s="20")
    content, statuses, samples = picture.read_bytes(), list[int](), list[dict[str, float]]()
    until = time.monotonic() + minutes * 60

    def ask() -> None:
        number = 0
        while time.monotonic() < until:
            number += 1
            status, body = replica.post(content if number % 10 else content[: len(content) // 2])
            statuses.append(status if number % 10 else 200 if status == 422 else status)
            if status == 200:
                answer = json.loads(body)
                statuses.append(replica.get(answer["links"]["gradcam"])[0])
                statuses.append(replica.get(answer["links"]["attention"] + f"&query={number % 4}")[0])

    with running(replica), clients(CLIENTS, ask):
        while time.monotonic() < until:
            samples.append(replica.usage())
            time.sleep(1.0)
    settled = samples[round(len(samples) * SETTLING) :]
    fifth = max(1, len(settled) // 5)

    def ends(name: str) -> tuple[float, float]:
        return median(one[name] for one in settled[:fifth]), median(one[name] for one in settled[-fifth:])

    failed = sum(status != 200 for status in statuses)
    return Soak(minutes, len(statuses), failed, ends("rss_mb"), ends("files"), ends("threads"))
