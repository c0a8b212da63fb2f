"""Attacks by one client, each at its full speed, and what they cost the service and an honest client beside them.

The attacker and the honest client come from different addresses, as a proxy would say, so they are different users.
"""

from __future__ import annotations

import io
import json
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPException
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Any
from urllib.parse import quote, urlencode

import psutil
from PIL import Image

from app.pictures.decode import PREVIEW_SIDE_PX, Limits
from app.pictures.opened import OpenOptions, open_picture
from app.serving.decoder_process import DecoderProcess
from app.serving.decoders import DecoderOptions
from benchmarks.timing import percentile
from reliability import bombs
from reliability.containers import png, riff, webp
from reliability.hostile import hostile_uploads
from reliability.replicas import Replica
from reliability.uploads import status_mb

ATTACKER, HONEST = "203.0.113.7", "198.51.100.1"  # addresses for documentation, RFC 5737
SENDERS = 8  # connections of the attacker
MUTATORS = 2  # connections that send mutated pictures
HANGS_UP_AFTER_S = 0.05
STEADY = 8  # so many answers in a row, as quick as before, and an attack is over
TIMEOUT_S = 40.0
PROGRAM = DecoderOptions.program


@dataclass
class Cost:
    """What one upload cost: processor time of the service and its decoders, and memory of both."""

    status: int
    size: int
    cpu_s: float
    service_mb: float
    decoder_mb: float


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


def uploads() -> dict[str, bytes]:
    """Hostile pictures of at most 100 kB, by name: the worst that pass the checks, and some that do not."""
    black = 4000 * (1 + 3 * 6250)
    gif = io.BytesIO()
    Image.new("P", (6250, 4000)).save(gif, "GIF")
    jpeg = io.BytesIO()
    Image.new("RGB", (8160, 6120)).save(jpeg, "JPEG", progressive=True, quality=5)
    tiff = io.BytesIO()
    Image.new("RGB", (6250, 4000)).save(tiff, "TIFF", compression="tiff_lzw")
    return {
        "JPEG of 50 million pixels, arithmetic coding, 32 empty scans": scans(32),
        "JPEG of 50 million pixels, arithmetic coding, 400 empty scans": scans(400),
        "progressive JPEG of 50 million black pixels, cut off": jpeg.getvalue()[:100_000],
        "PNG of 25 million black pixels": png(6250, 4000, zlib.compress(bytes(black), 9)),
        "GIF of 25 million black pixels": gif.getvalue(),
        "TIFF of 25 million black pixels, cut off": tiff.getvalue()[:100_000],
        "lossless WebP of 25 million pixels": lossless_webp(6250, 4000),
        "lossless WebP of 50 million pixels": lossless_webp(16_383, 3051),
        "PNG with 500 kB in each of 2,000 text chunks": bombs.many_texts()[:100_000],
        "TIFF of 10,000 strips": bombs.many_strips(10_000, shared=True)[:100_000],
        "GIF of 20,000 frames": bombs.frames("GIF", 20_000)[:100_000],
    }


def scans(count: int) -> bytes:
    """A progressive JPEG with arithmetic coding and so many scans, of headers alone."""
    tables = b"\xff\xdb\0\x43\0" + b"\x10" * 64
    frame = b"\xff\xca\0\x11\x08" + struct.pack(">HH", 7070, 7070) + b"\x03\x01\x11\0\x02\x11\0\x03\x11\0"
    scan = b"\xff\xda\0\x0c\x03\x01\0\x02\0\x03\0\0\0\0"
    return b"\xff\xd8" + tables + frame + scan * count + b"\xff\xd9"


def lossless_webp(width: int, height: int) -> bytes:
    """A WebP file of one colour: a header, and codes that take no bits."""
    bits = (width - 1) | (height - 1) << 14
    body = b"\x2f" + struct.pack("<L", bits) + bytes.fromhex("8888080000") + bytes(2)
    return webp(riff(b"VP8L", body))


def cost(replica: Replica, data: bytes) -> Cost:
    """Send one upload, and see what it takes until the service is as it was before."""
    service = psutil.Process(replica.pid)
    wait_until_idle(service)
    before_s, before_mb = cpu_s(service), status_mb(service.pid, "VmRSS")
    for process in (service, *decoders(service)):
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak is counted anew
    with sampled(service) as sizes_mb:
        status = post(kept_open(replica), "/predict", data, ATTACKER)
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
    return lambda replica: post(kept_open(replica), path, data, ATTACKER)


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
    hostile = uploads()
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
    began = time.perf_counter()
    status = post(kept_open(replica), "/predict", picture, HONEST)
    return (time.perf_counter() - began) * 1e3 if status == 200 else None


def post(opened: HTTPConnection, path: str, data: bytes, address: str) -> int:
    """The status of the answer; 0 if there is none."""
    try:
        opened.request("POST", path, data, {"Content-Type": "image/jpeg", "X-Forwarded-For": address})
        with opened.getresponse() as answer:
            answer.read()
            return answer.status
    except (OSError, HTTPException):
        return 0
    finally:
        opened.close()


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


def costs(replica: Replica) -> dict[str, Cost]:
    """The cost of every hostile upload, by its name."""
    return {name: cost(replica, data) for name, data in uploads().items()}


def all_beside(replica: Replica, picture: bytes, seconds: float) -> dict[str, Beside]:
    """Every attack for so many seconds, one after the other, with an honest client beside it."""
    run = partial(beside, replica, picture)
    return {name: run(attack, seconds) for name, attack in attacks(picture).items()}


def mutated(replica: Replica, count: int, seed: int) -> Counter[int]:
    """The statuses of so many hostile uploads, drawn from this seed and the next ones."""
    statuses: Counter[int] = Counter()

    def send(sender: int) -> None:
        opened = kept_open(replica)
        for upload in islice(hostile_uploads(seed + sender), count // MUTATORS):
            statuses[status_of(opened, "POST", "/predict", upload.data)] += 1

    threads = [threading.Thread(target=send, args=[sender]) for sender in range(MUTATORS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def odd_queries(replica: Replica, picture: bytes, count: int, seed: int) -> Counter[int]:
    """The statuses of so many requests with odd query parameters, drawn from this seed."""
    rng, statuses, opened = Random(seed), Counter[int](), kept_open(replica)
    paths = replica_document(replica)["paths"]
    routes = [(path, operation) for path in paths for operation in paths[path] if operation in ("get", "post")]
    prediction_id = json.loads(replica.post(picture)[1])["prediction_id"]
    for _ in range(count):
        path, method = rng.choice(routes)
        documented = [given["name"] for given in paths[path][method].get("parameters", []) if given["in"] == "query"]
        query = [(rng.choice([*documented, "other"]), odd_value(rng)) for _ in range(rng.randrange(4))]
        if rng.random() < 0.8:
            query.append(("prediction_id", prediction_id))
        path = path.replace("{prediction_id}", quote(odd_value(rng), safe=""))
        address = f"{path}?{urlencode(query, errors='surrogatepass')}"
        statuses[status_of(opened, method.upper(), address, picture if method == "post" else b"")] += 1
    return statuses


def odd_value(rng: Random) -> str:
    """A value that a parameter may get from someone who means no good, or does not know better."""
    number = rng.choice(
        ["1" + "0" * 400, "-1", "0", "1e400", "nan", "inf", "-0", "1_0", "0x10", str(rng.randrange(2**70))]
    )
    text = "".join(chr(rng.choice([*range(32), 0x200D, 0xFFFF, 0x1F600, rng.randrange(0xD800)])) for _ in range(5))
    known = rng.choice(["cnn", "swin", "benign", "malignant", "json", "npy", "png", "fine", "0.5", "1", "all"])
    return rng.choice([number, text, known, "", known + text, "a" * 3000, f"{number},{number}", "null", "[]", "true"])


def replica_document(replica: Replica) -> Any:
    return json.loads(replica.get("/openapi.json")[1])


def kept_open(replica: Replica) -> HTTPConnection:
    return HTTPConnection(replica.host, replica.port, timeout=TIMEOUT_S)


def status_of(opened: HTTPConnection, method: str, path: str, body: bytes) -> int:
    """The status of an answer on a connection that is kept open; 0 if there is none."""
    try:
        opened.request(method, path, body, {"Content-Type": "image/png"})
        with opened.getresponse() as answer:
            answer.read()
            return answer.status
    except (OSError, HTTPException):
        opened.close()
        return 0
