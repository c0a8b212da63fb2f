"""Hostile uploads against a served process: every answer is looked at, and what they cost, and an honest client beside.

In rounds: uploads are made, an honest client is timed alone, then beside the uploads, and the answers are judged when
nobody is timed. So a slow moment of the machine hits both timings alike.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import threading
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median

from PIL import Image

from app.api.problems import MEDIA_TYPE, PROBLEMS
from app.pictures.decode import Limits
from benchmarks.timing import percentile
from reliability.client import Answer, Client
from reliability.hostile import Hostile, hostile_uploads, saved, scene

ROUND, ALONE = 100, 25
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"BM")
STATUS_OF = {name: status for status, name in PROBLEMS.values()}
INNER = re.compile(r"Traceback|File \"|\.py\b|site-packages|PIL\.|0x[0-9a-f]{6}|object at|Error\b")
# All that Pillow raises on a file that it cannot decode.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, AssertionError, AttributeError, EOFError),
    *(struct.error, zlib.error, ArithmeticError, MemoryError, RuntimeError),
)


@dataclass
class UploadsReport:
    """What became of the uploads of a seed, by family.

    `wrong` says of each that was not answered rightly what came. `took_ms`, `alone_ms` and `beside_ms` are as a client
    sees them. So are `bombs_ms` of bombs that were refused; of those that are pictures all the same, they are the
    service's own times for decoding. `grown_mb` is the process's peak memory over what it took before.
    """

    seed: int
    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    took_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    bombs_ms: list[float] = field(default_factory=list)
    slowest: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    alone_ms: list[float] = field(default_factory=list)
    beside_ms: list[float] = field(default_factory=list)
    honest_lost: int = 0
    before_mb: float = 0.0
    grown_mb: float = 0.0

    @property
    def count(self) -> int:
        return sum(counts.total() for counts in self.statuses.values())

    @property
    def slower(self) -> float:
        """An honest client's median beside the uploads, of its median alone."""
        return median(self.beside_ms) / median(self.alone_ms)

    def lines(self) -> Iterator[str]:
        """The report for people."""
        for family, times in sorted(self.took_ms.items()):
            counts = ", ".join(f"{count} × {status}" for status, count in sorted(self.statuses[family].items()))
            spent = f"median {median(times):.1f}, p99 {percentile(times, 99):.1f}, most {max(times):.1f} ms"
            yield f"{family}: {spent} (upload {self.slowest[family]}); {counts}"
        yield f"{self.count} uploads of seed {self.seed}, {len(self.wrong)} answered wrongly"
        yield f"bombs: p99 {percentile(self.bombs_ms, 99):.1f}, most {max(self.bombs_ms):.1f} ms"
        yield f"memory: {self.before_mb:.0f} MB before, at most {self.grown_mb:.0f} MB more"
        for name, times in (("alone", self.alone_ms), ("beside them", self.beside_ms)):
            spent = f"median {median(times):.1f}, p95 {percentile(times, 95):.1f} ms"
            yield f"honest client {name}: {spent} of {len(times)} answers"
        yield from self.wrong


def attack(
    address: str, process_id: int, count: int, seed: int = 0, real: Path | None = None, limits: Limits | None = None
) -> UploadsReport:
    """Send `count` hostile uploads of this seed to the service at `address`, whose process is on this machine."""
    report, limits = UploadsReport(seed), limits or Limits()
    uploads, honest, sender = hostile_uploads(seed, real), Honest(address), Client(address)
    report.before_mb = _reset_peak(process_id)
    while report.count < count:
        sent = list(islice(uploads, min(ROUND, count - report.count)))
        report.alone_ms += [honest.ask() for _ in range(ALONE)]
        with honest.asking(report.beside_ms):
            answers = [_send(sender, upload) for upload in sent]
        with _silent_libraries():
            for upload, answer in zip(sent, answers, strict=True):
                _record(report, upload, answer, limits)
    report.honest_lost = honest.lost
    report.grown_mb = status_mb(process_id, "VmHWM") - report.before_mb
    return report


class Honest:
    """A client that sends one small picture again and again, each when the last was answered."""

    def __init__(self, address: str) -> None:
        self._client, self._picture, self.lost = Client(address), saved(scene(320, 240), "JPEG"), 0
        for _ in range(5):
            self.ask()

    def ask(self) -> float:
        """What one answer took, in ms."""
        answer = self._client.post("/predict", self._picture, "image/jpeg")
        self.lost += answer.status != 200
        return answer.took_ms

    @contextmanager
    def asking(self, times_ms: list[float]) -> Iterator[None]:
        """Ask all the while, in a thread."""
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                times_ms.append(self.ask())

        thread = threading.Thread(target=ask, name="honest client")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def right_answer(data: bytes, limits: Limits) -> tuple[str, Sequence[int]]:
    """The name of the problem with an upload, or "picture" and its sides in order, by what Pillow itself says of it."""
    if not data:
        return "empty-upload", ()
    if not data.startswith(STARTS) and not (data.startswith(b"RIFF") and data[8:12] == b"WEBP"):
        return "unsupported-media-type", ()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            reducible = bool(getattr(image, "quantization", None))
            max_pixels = limits.max_pixels if reducible else limits.max_full_pixels
            if image.width * image.height > max_pixels or max(image.size) > limits.max_side_px:
                return "picture-too-large", ()
            image.load()
            if image.format == "PNG" and data[12:16] != b"IHDR":  # Pillow reads some that begin with another chunk
                return "unreadable-picture", ()
            # Without its palette, a picture has no colours; Pillow would make some up.
            if image.mode in ("I", "F", "LAB") or (image.mode == "P" and image.palette is None):
                return "unreadable-picture", ()
            image.convert("RGB")
            return "picture", sorted(image.size)
    except Image.DecompressionBombError:
        return "picture-too-large", ()
    except UNREADABLE:
        return "unreadable-picture", ()


def fault(answer: Answer, right: tuple[str, Sequence[int]]) -> str | None:
    """What is wrong with an answer, or None."""
    if answer.status == 0:
        return f"no answer: {answer.body}"
    if found := INNER.search(answer.body):
        return f"it shows the service's inside: {found.group()!r} in {answer.body[:200]}"
    name, sides = right
    try:
        content = json.loads(answer.body)
    except ValueError:
        return f"{answer.status} without JSON: {answer.body[:200]}"
    if answer.status == 200:
        if name != "picture":
            return f"200, but it should be {name}"
        picture = content.get("picture")
        if picture and sorted((picture["width_px"], picture["height_px"])) != sides:
            return f"a picture of {sides} px was taken for {picture}"
        return None
    if answer.kind != MEDIA_TYPE or content.keys() < {"type", "title", "status", "detail"} or not content["detail"]:
        return f"{answer.status} is no problem that says what to do: {answer.body[:200]}"
    said = str(content["type"]).removeprefix("urn:fusionlens:problem:")
    if (said, answer.status, content["status"]) != (name, STATUS_OF.get(name), answer.status):
        return f"{answer.status} {said}, but it should be {name}"
    return None


def _send(sender: Client, upload: Hostile) -> Answer:
    """By turns as a form and as the body, for an answer or for an explanation as well."""
    path = "/gradcam?format=json" if upload.number % 8 == 7 and not upload.is_bomb else "/predict"
    if upload.number % 2:
        return sender.post(path, upload.data, "image/png")
    mark = f"line{Random(upload.number).getrandbits(128):x}"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    body = head.encode() + upload.data + f"\r\n--{mark}--\r\n".encode()
    return sender.post(path, body, f"multipart/form-data; boundary={mark}")


def _record(report: UploadsReport, upload: Hostile, answer: Answer, limits: Limits) -> None:
    report.statuses[upload.family][answer.status] += 1
    times = report.took_ms[upload.family]
    if answer.took_ms > max(times, default=0.0):
        report.slowest[upload.family] = upload.number
    times.append(answer.took_ms)
    if upload.is_bomb:
        own = json.loads(answer.body).get("timings_ms", {}) if answer.status == 200 else {}
        report.bombs_ms.append(own.get("decode", answer.took_ms))
    right = right_answer(upload.data, limits)
    # What has too many parts is refused before it is read: a bomb, or damage that reads like one.
    crowded = (answer.status, answer.kind) == (STATUS_OF["picture-too-large"], MEDIA_TYPE)
    if crowded and (upload.is_bomb or right[0] == "unreadable-picture"):
        return
    if wrong := fault(answer, right):
        report.wrong.append(f"upload {upload.number} of seed {report.seed}, {upload.family}: {wrong}")


def _reset_peak(process_id: int) -> float:
    """Let the kernel count the peak anew from here. Returns the memory taken now, in MB."""
    Path(f"/proc/{process_id}/clear_refs").write_text("5")
    return status_mb(process_id, "VmRSS")


def status_mb(process_id: int, name: str) -> float:
    """A figure of /proc/PID/status in MB, such as VmRSS, the memory now, or VmHWM, its peak."""
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """Pillow warns of bad files, and libtiff writes of them to standard error; here they are meant to be bad."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
