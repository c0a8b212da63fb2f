"""What one hostile picture costs: processor time and memory of the service, and of the process that decodes it."""

from __future__ import annotations

import io
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
from PIL import Image

from app.pictures.decode import PREVIEW_SIDE_PX, Limits
from app.pictures.opened import OpenOptions, open_picture
from app.serving.decoder_process import DecoderProcess
from app.serving.decoders import DecoderOptions
from reliability import bombs
from reliability.client import Client
from reliability.containers import png
from reliability.replicas import Replica
from reliability.uploads import status_mb

PROGRAM = DecoderOptions.program


@dataclass
class Cost:
    """What one upload cost: processor time of the service and its decoders, and memory of both."""

    status: int
    size: int
    cpu_s: float
    service_mb: float
    decoder_mb: float


def hostile_pictures() -> dict[str, bytes]:
    """Hostile pictures of at most 100 kB, by name: the worst that pass the checks, and some that do not."""
    black = 4000 * (1 + 3 * 6250)
    gif = io.BytesIO()
    Image.new("P", (6250, 4000)).save(gif, "GIF")
    jpeg = io.BytesIO()
    Image.new("RGB", (8160, 6120)).save(jpeg, "JPEG", progressive=True, quality=5)
    tiff = io.BytesIO()
    Image.new("RGB", (6250, 4000)).save(tiff, "TIFF", compression="tiff_lzw")
    return {
        "JPEG of 50 million pixels, arithmetic coding, 32 empty scans": bombs.empty_scans(32),
        "JPEG of 50 million pixels, arithmetic coding, 400 empty scans": bombs.empty_scans(400),
        "progressive JPEG of 50 million black pixels, cut off": jpeg.getvalue()[:100_000],
        "PNG of 25 million black pixels": png(6250, 4000, zlib.compress(bytes(black), 9)),
        "GIF of 25 million black pixels": gif.getvalue(),
        "TIFF of 25 million black pixels, cut off": tiff.getvalue()[:100_000],
        "lossless WebP of 25 million pixels": bombs.flat_webp(6250, 4000),
        "lossless WebP of 50 million pixels": bombs.flat_webp(16_383, 3051),
        "PNG with 500 kB in each of 2,000 text chunks": bombs.many_texts()[:100_000],
        "TIFF of 10,000 strips": bombs.many_strips(10_000, shared=True)[:100_000],
        "GIF of 20,000 frames": bombs.frames("GIF", 20_000)[:100_000],
    }


def all_costs(replica: Replica) -> dict[str, Cost]:
    """The cost of every hostile upload, by its name."""
    return {name: cost(replica, data) for name, data in hostile_pictures().items()}


def cost(replica: Replica, data: bytes) -> Cost:
    """Send one upload, and see what it takes until the service is as it was before."""
    service = psutil.Process(replica.pid)
    wait_until_idle(service)
    before_s, before_mb = cpu_s(service), status_mb(service.pid, "VmRSS")
    for process in (service, *decoders(service)):
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak is counted anew
    with sampled(service) as sizes_mb, Client(replica.address) as client:
        status = client.post("/predict", data, "image/jpeg").status
    wait_until_idle(service)
    grown_mb = status_mb(service.pid, "VmHWM") - before_mb
    return Cost(status, len(data), cpu_s(service) - before_s, grown_mb, max(sizes_mb))


@dataclass(frozen=True)
class Price:
    """What decoding in another process costs an honest picture: both ways in ms, and the idle process in MB."""

    there_ms: tuple[float, ...]
    here_ms: tuple[float, ...]
    idle_mb: float

    @property
    def more_ms(self) -> float:
        """The difference of the medians."""
        return median(self.there_ms) - median(self.here_ms)


def price(picture: bytes, rounds: int) -> Price:
    """Open a picture by turns in a process of its own and in this one."""
    options = OpenOptions((224, 224), Limits(), PREVIEW_SIDE_PX)
    process = DecoderProcess(768_000_000, 2.0, PROGRAM)
    process.wait_until_ready()
    idle_mb = status_mb(process.pid, "VmRSS")
    there_ms, here_ms = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        process.open(picture, options)
        between = time.perf_counter()
        open_picture(picture, options)
        there_ms.append((between - began) * 1e3)
        here_ms.append((time.perf_counter() - between) * 1e3)
    process.close()
    return Price(tuple(there_ms), tuple(here_ms), idle_mb)


def decoders(service: psutil.Process) -> list[psutil.Process]:
    """The processes that decode pictures for the service."""
    running = []
    for child in service.children():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            running += [child] * (PROGRAM in child.cmdline())
    return running


def cpu_s(service: psutil.Process) -> float:
    """The processor time of the service and of all its decoders until now, the ended ones included."""
    total = float(sum(service.cpu_times()[:4]))
    for child in decoders(service):
        with suppress(psutil.NoSuchProcess):
            total += sum(child.cpu_times()[:2])
    return total


def wait_until_idle(service: psutil.Process) -> None:
    """Wait until all decoders are there, and neither they nor the service use a core."""
    quiet, last_s = 0, cpu_s(service)
    while quiet < 5 or len(decoders(service)) < 2:
        time.sleep(0.1)
        now_s = cpu_s(service)
        quiet = quiet + 1 if now_s - last_s <= 0.02 else 0
        last_s = now_s


@contextmanager
def sampled(service: psutil.Process) -> Iterator[list[float]]:
    """The peaks of the decoders' memory in MB, looked at all the time."""
    peaks, over = [0.0], threading.Event()

    def look() -> None:
        while not over.is_set():
            for child in decoders(service):
                with suppress(OSError, StopIteration):
                    peaks.append(status_mb(child.pid, "VmHWM"))
            time.sleep(0.005)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()
