"""What breaks beside the service: Redis, the disk, the clock, the bundle's files."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from reliability.replicas import Replica, clients, running
from tests.support.redis_server import redis_server

FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


@dataclass
class Answers:
    """What a steady client was answered while something was broken."""

    times_s: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    stored: list[bool] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(status != 200 for status in self.statuses)


@contextmanager
def steady(replica: Replica, picture: bytes, pause_s: float = 0.05) -> Iterator[Answers]:
    """A client that predicts again and again, from the start of the block to its end."""
    answers, done = Answers(), threading.Event()

    def ask() -> None:
        while not done.is_set():
            answers.times_s.append(time.monotonic())
            try:
                status, body = replica.post(picture)
            except OSError:
                status, body = 0, b"{}"
            answers.statuses.append(status)
            answers.stored.append(bool(json.loads(body).get("stored")))
            time.sleep(pause_s)

    with clients(1, ask):
        try:
            yield answers
        finally:
            done.set()


@dataclass(frozen=True)
class RedisLost:
    """`again_s` is from Redis's new start until a prediction is stored again."""

    predictions: int
    failed: int
    not_stored: int
    explained_status: int
    again_s: float


def redis_lost(bundle: Path, picture: Path, folder: Path, gone_s: float = 5.0) -> RedisLost:
    """Redis is killed and started again under load."""
    content = picture.read_bytes()
    with redis_server(folder) as server:
        replica = Replica("127.0.0.1", 8106, folder, None, bundle=str(bundle), **server.settings)
        with running(replica), steady(replica, content) as answers:
            link = json.loads(replica.post(content)[1])["links"]["gradcam"]
            time.sleep(2.0)
            server.stop()
            time.sleep(gone_s)
            explained, _ = replica.get(link)
            server.start()
            started = time.monotonic()
            while not json.loads(replica.post(content)[1])["stored"]:
                time.sleep(0.02)
            again_s = time.monotonic() - started
            time.sleep(1.0)
    return RedisLost(len(answers.statuses), answers.failed, answers.stored.count(False), explained, again_s)


def full_disk(bundle: Path, picture: Path, folder: Path) -> tuple[int, str]:
    """The status of a prediction, and what was logged, where the folder for compiled graphs has no room left."""
    cache = folder / "cache"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(cache)], check=True)
    try:
        replica = Replica("127.0.0.1", 8107, folder, bundle=str(bundle), cache=str(cache))
        with running(replica):
            status, _ = replica.post(picture.read_bytes())
            logged = [line for line in replica.log.read_text().splitlines() if '"event": "request"' not in line]
            return status, "\n".join(logged)
    finally:
        subprocess.run(["umount", str(cache)], check=True)


@dataclass(frozen=True)
class ClockJumps:
    """`explained` are the statuses of an explanation after each jump; the prediction had not expired."""

    jumps: int
    predictions: int
    failed: int
    explained: list[int]
    expired_status: int


def clock_jumps(bundle: Path, picture: Path, folder: Path) -> ClockJumps:
    """The wall clock of the service leaps a day ahead, a year back, and comes home, under load."""
    if not Path(FAKETIME).exists():
        raise FileNotFoundError(f"{FAKETIME} is not there: apt install faketime")
    clock, content, ttl_s = folder / "clock", picture.read_bytes(), 12.0
    clock.write_text("+0")
    replica = Replica("127.0.0.1", 8108, folder, bundle=str(bundle), store_ttl_s=str(ttl_s))
    replica.extend_environment(
        LD_PRELOAD=FAKETIME,
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_CACHE_DURATION="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    with running(replica), steady(replica, content) as answers:
        link, explained = json.loads(replica.post(content)[1])["links"]["gradcam"], []
        began = time.monotonic()
        for offset in ("+1d", "-365d", "+0"):
            clock.write_text(offset)
            time.sleep(2.0)
            explained.append(replica.get(link)[0])
        time.sleep(max(0.0, began + ttl_s + 0.5 - time.monotonic()))
        return ClockJumps(3, len(answers.statuses), answers.failed, explained, replica.get(link)[0])


@dataclass(frozen=True)
class BundleReplaced:
    """`half` and `whole` are the versions answered after a reload of half-copied and of whole files."""

    predictions: int
    failed: int
    before: str
    half: str
    whole: str


def bundle_replaced(bundle: Path, picture: Path, folder: Path) -> BundleReplaced:
    """Another version is copied over the one that is served, with a reload when half of it is there."""
    served, new = folder / "served", folder / "new"
    shutil.copytree(bundle, served)
    shutil.copytree(bundle, new)
    manifest = json.loads((new / "manifest.json").read_text())
    (new / "manifest.json").write_text(json.dumps(manifest | {"version": "replaced"}))
    weights = (new / "model.safetensors").read_bytes()
    replica, content = Replica("127.0.0.1", 8109, folder, bundle=str(served)), picture.read_bytes()

    def version() -> str:
        return str(json.loads(replica.post(content)[1])["model"]["version"])

    with running(replica), steady(replica, content) as answers:
        before = version()
        (served / "model.safetensors").write_bytes(weights[: len(weights) // 2])
        shutil.copy(new / "manifest.json", served)
        _reload(replica, "refused")
        half = version()
        (served / "model.safetensors").write_bytes(weights)
        _reload(replica, "loaded")
        return BundleReplaced(len(answers.statuses), answers.failed, before, half, version())


def _reload(replica: Replica, outcome: str) -> None:
    sample = f'fusionlens_reloads_total{{outcome="{outcome}"}}'
    before, until = replica.metric(sample), time.monotonic() + 60
    replica.signal(signal.SIGHUP)
    while replica.metric(sample) == before:
        assert time.monotonic() < until, f"no reload was {outcome}"
        time.sleep(0.05)
