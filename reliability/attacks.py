"""Attacks by one client, each at its full speed, and an honest client beside them.

The attacker and the honest client come from different addresses, as a proxy would say, so they are different users.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from benchmarks.timing import percentile
from reliability.client import Client
from reliability.costs import hostile_pictures
from reliability.replicas import Replica

ATTACKER, HONEST = "203.0.113.7", "198.51.100.1"  # addresses for documentation, RFC 5737
SENDERS = 8  # connections of the attacker
HANGS_UP_AFTER_S = 0.05
STEADY = 8  # so many answers in a row, as quick as before, and an attack is over
TIMEOUT_S = 40.0


@dataclass
class Beside:
    """An honest client while an attack runs, and afterwards. `health_ms` are answers of /health/live meanwhile."""

    alone_ms: list[float]
    beside_ms: list[float] = field(default_factory=list)
    lost: int = 0
    sent: int = 0
    failures: int = 0  # answers of 5xx to the attacker
    health_ms: list[float] = field(default_factory=list)
    recovered_s: float = 0.0

    @property
    def answered(self) -> float:
        """The share of honest requests that were answered."""
        return len(self.beside_ms) / (len(self.beside_ms) + self.lost)

    @property
    def slower(self) -> float:
        """The honest client's median beside the attack, as a multiple of its median alone."""
        return median(self.beside_ms) / median(self.alone_ms) if self.beside_ms else float("inf")

    @property
    def health_p99_ms(self) -> float:
        """What the probe for liveness took, at the 99th percentile."""
        return percentile(self.health_ms, 99)


def beside(replica: Replica, picture: bytes, attack: Callable[[Replica], int], seconds: float) -> Beside:
    """Run an attack for so long, with an honest client and a probe beside it."""
    found = Beside([asked for _ in range(40) if (asked := ask(replica, picture)) is not None])
    over = threading.Event()

    def send() -> None:
        while not over.is_set():
            status = attack(replica)
            found.sent += 1
            found.failures += status >= 500

    def probe() -> None:
        while not over.is_set():
            began = time.perf_counter()
            replica.get("/health/live")
            found.health_ms.append((time.perf_counter() - began) * 1e3)
            time.sleep(0.02)

    threads = [*(threading.Thread(target=send) for _ in range(SENDERS)), threading.Thread(target=probe)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        taken = ask(replica, picture)
        if taken is None:
            found.lost += 1
            time.sleep(0.05)
        else:
            found.beside_ms.append(taken)
    over.set()
    for thread in threads:
        thread.join()
    found.recovered_s = recovery_s(replica, picture, 2 * percentile(found.alone_ms, 90))
    return found


def recovery_s(replica: Replica, picture: bytes, usual_ms: float) -> float:
    """The time until answers come as before, several in a row."""
    ended, began, quick = time.monotonic(), time.monotonic(), 0
    while quick < STEADY and time.monotonic() - ended < 120:
        sent = time.monotonic()
        taken = ask(replica, picture)
        if taken is None or taken > usual_ms:
            quick = 0
            continue
        if not quick:
            began = sent
        quick += 1
    return began - ended if quick == STEADY else float("inf")


def one_upload(data: bytes, path: str = "/predict") -> Callable[[Replica], int]:
    """The attack that sends one upload and waits for its answer."""

    def attack(replica: Replica) -> int:
        with Client(replica.address, {"X-Forwarded-For": ATTACKER}) as client:
            return client.post(path, data, "image/jpeg").status

    return attack


def hang_up(data: bytes) -> Callable[[Replica], int]:
    """The attack that sends one upload and leaves soon."""

    def attack(replica: Replica) -> int:
        head = (
            f"POST /predict HTTP/1.1\r\nHost: here\r\nX-Forwarded-For: {ATTACKER}\r\n"
            f"Content-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        with suppress(OSError), socket.create_connection((replica.host, replica.port), timeout=TIMEOUT_S) as sender:
            sender.sendall(head.encode() + data)
            time.sleep(HANGS_UP_AFTER_S)
        return 0

    return attack


def attacks(picture: bytes) -> dict[str, Callable[[Replica], int]]:
    """All attacks by name: every hostile upload, the worst one by a client that leaves, and honest work in excess."""
    hostile = hostile_pictures()
    worst = "JPEG of 50 million pixels, arithmetic coding, 32 empty scans"
    return {
        **{name: one_upload(data) for name, data in hostile.items()},
        f"{worst}, from a client that leaves after {HANGS_UP_AFTER_S * 1e3:.0f} ms": hang_up(hostile[worst]),
        "ordinary pictures, as many as it can": one_upload(picture),
        "explanations with fine detail, nine passes each": one_upload(picture, "/explain?detail=fine"),
        "tokens, which the graph is compiled for": one_upload(picture, "/tokens"),
    }


def ask(replica: Replica, picture: bytes) -> float | None:
    """What an honest request took, in ms, or None if it was not answered with a prediction."""
    with Client(replica.address, {"X-Forwarded-For": HONEST}) as client:
        answer = client.post("/predict", picture, "image/jpeg")
    return answer.took_ms if answer.status == 200 else None


def all_beside(replica: Replica, picture: bytes, seconds: float) -> dict[str, Beside]:
    """Every attack for so many seconds, one after the other, with an honest client beside it."""
    run = partial(beside, replica, picture)
    return {name: run(attack, seconds) for name, attack in attacks(picture).items()}
