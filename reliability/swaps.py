"""A new bundle again and again while clients ask: nothing is lost, and every answer is of one version."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from app.server.provision import add_key
from reliability.replicas import Replica, clients, running

CLIENTS = 2


@dataclass
class Swaps:
    """`mixed` are answers whose probabilities are not those of the bundle that they name."""

    swaps: int = 0
    answers: int = 0
    errors: list[str] = field(default_factory=list)
    mixed: int = 0
    swap_s: list[float] = field(default_factory=list)
    grown_mb: float = 0.0

    @property
    def median_swap_s(self) -> float:
        return median(self.swap_s)


class Versions:
    """A bundle and another version of it, behind a link that is turned from one to the other at once."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.link, self.folders = folder / "linked", (folder / "first", folder / "second")
        for number, copy in enumerate(self.folders, 1):
            shutil.copytree(bundle, copy)
            manifest = json.loads((copy / "manifest.json").read_text())
            manifest["version"] = f"swap-{number}"
            manifest["calibration"]["temperature"] *= number  # so that its probabilities tell it from the other
            (copy / "manifest.json").write_text(json.dumps(manifest))
        self.turn_to(0)

    def turn_to(self, number: int) -> None:
        new = self.link.with_name("new")
        new.unlink(missing_ok=True)
        new.symlink_to(self.folders[number % 2])
        new.replace(self.link)


def swap(bundle: Path, picture: Path, folder: Path, swaps: int) -> Swaps:
    """Reload a real service's bundle `swaps` times under load."""
    versions, found = Versions(bundle, folder), Swaps()
    key = add_key(folder / "keys.toml", "operator", ["predict", "metrics", "admin"])
    replica = Replica(
        "127.0.0.1",
        8105,
        folder,
        bundle=str(versions.link),
        keys=str(folder / "keys.toml"),
        store_max_bytes="5000000",  # full before the swaps begin, so that what grows is something else
    )
    expected: dict[str, object] = {}
    with running(replica):
        for number in (1, 0):
            _reload(replica, versions, number, key)
            answer = _predict(replica, picture.read_bytes(), key)
            expected[answer["model"]["sha256"]] = answer["probabilities"]
        with _asking(replica, picture.read_bytes(), key, expected, Swaps()):  # so that memory has settled
            for number in range(1, 11):
                _reload(replica, versions, number, key)
        before_mb = replica.usage()["rss_mb"]
        with _asking(replica, picture.read_bytes(), key, expected, found):
            for number in range(1, swaps + 1):
                found.swap_s.append(_reload(replica, versions, number, key))
                found.swaps += 1
        found.grown_mb = replica.usage()["rss_mb"] - before_mb
    return found


def _reload(replica: Replica, versions: Versions, number: int, key: str) -> float:
    versions.turn_to(number)
    began = time.monotonic()
    request = urllib.request.Request(f"{replica.address}/admin/reload", method="POST", headers={"X-API-Key": key})
    with urllib.request.urlopen(request, timeout=60) as answer:
        json.load(answer)
    return time.monotonic() - began


def _predict(replica: Replica, picture: bytes, key: str) -> dict[str, dict[str, str]]:
    headers = {"X-API-Key": key, "Content-Type": "image/jpeg"}
    request = urllib.request.Request(f"{replica.address}/predict", picture, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, dict[str, str]] = json.load(response)
    return answer


@contextmanager
def _asking(replica: Replica, picture: bytes, key: str, expected: dict[str, object], found: Swaps) -> Iterator[None]:
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                answer = _predict(replica, picture, key)
                found.mixed += expected[answer["model"]["sha256"]] != answer["probabilities"]
                found.answers += 1
            except (OSError, ValueError) as error:
                found.errors.append(repr(error))

    with clients(CLIENTS, ask):
        try:
            yield
        finally:
            done.set()
