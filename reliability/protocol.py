"""Attacks below HTTP's surface by clients without a key: what they cost, and a fuzzer of the protocol."""

from __future__ import annotations

import re
import resource
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

from reliability.client import Client
from reliability.replicas import Replica
from reliability.uploads import status_mb

SENT_BYTES = 20_000_000
PATIENCE_S, ROUNDS = 40.0, 5
SENDING_S = 5.0  # for requests that are taken slowly
CHUNKED = b"Transfer-Encoding: chunked\r\n"
FORM = b"Content-Type: multipart/form-data; boundary=line"
PART = b'--line\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


@dataclass(frozen=True)
class Request:
    """One request of at most SENT_BYTES: what it begins with, and what follows again and again."""

    start: bytes
    again: bytes


@dataclass(frozen=True)
class Busy:
    """What one request cost: how long others waited for /health/live at most, the median of ROUNDS, and memory."""

    longest_ms: float
    grown_mb: float


def head(method: str, path: str, *headers: bytes) -> bytes:
    """The head of a request."""
    return b"\r\n".join([f"{method} {path} HTTP/1.1".encode(), b"Host: here", *headers, b""])


def requests() -> dict[str, Request]:
    """Requests that ask for much work or memory in the little that they say, by name."""
    length = b"Content-Length: %d\r\n\r\n" % SENT_BYTES
    image, form = head("POST", "/predict", b"Content-Type: image/png"), head("POST", "/predict", FORM)
    punycode = head("POST", "/predict", FORM + b"; charset=punycode") + length + PART.replace(b'; filename="a"', b"")
    return {
        "trailers without end": Request(image + CHUNKED + b"\r\n0\r\n", b"X-A: b\r\n" * 1000),
        "one trailer without end": Request(image + CHUNKED + b"\r\n0\r\nX-A: ", b"a" * 8000),
        "chunk extensions without end": Request(image + CHUNKED + b"\r\n1;", b"a" * 8000),
        "chunks of one byte": Request(image + CHUNKED + b"\r\n", b"1\r\na\r\n" * 1000),
        "chunks of 48 bytes": Request(image + CHUNKED + b"\r\n", b"30\r\n" + b"a" * 48 + b"\r\n"),
        "a form in punycode": Request(punycode, b"a" * 8000),
        "a form of near boundaries": Request(form + length + PART, b"\r\n--lin" * 1000),
        "a form of line ends": Request(form + length + PART, b"\r\n" * 4000),
        "a form of parts": Request(form + length, PART + b"\r\n"),
        "a body of 20 MB": Request(image + length + b"\x89PNG\r\n\x1a\n", bytes(8000)),
        "a body after its answer": Request(head("POST", "/nowhere") + length, bytes(8000)),
        "headers without end": Request(image, b"a: b\r\n" * 1000),
        "a query of many parameters": Request(head("GET", "/explain?" + "a=&" * 2600) + b"\r\n", b""),
        "empty lines": Request(head("GET", "/health/live") + b"\r\n", b"\r\n" * 4000),
    }


def busy(replica: Replica, request: Request) -> Busy:
    """Send one request while another client asks /health/live all the time."""
    Path(f"/proc/{replica.pid}/clear_refs").write_text("5")  # the peak is counted anew
    before_mb, longest_ms = status_mb(replica.pid, "VmRSS"), []
    for _ in range(ROUNDS):
        with asking(replica) as waits_ms:
            with suppress(OSError):
                _send(replica, request)
            time.sleep(0.2)
        longest_ms.append(max(waits_ms))
    return Busy(median(longest_ms), status_mb(replica.pid, "VmHWM") - before_mb)


@contextmanager
def asking(replica: Replica) -> Iterator[list[float]]:
    """How long each answer of /health/live took in ms, while the context lasts."""
    waits_ms, over = [], threading.Event()

    def ask() -> None:
        with Client(replica.address) as client:
            while not over.is_set():
                answer = client.send("GET", "/health/live", b"", "")
                waits_ms.append(answer.took_ms if answer.status == 200 else float("inf"))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield waits_ms
    finally:
        over.set()
        thread.join()


def _send(replica: Replica, request: Request) -> None:
    """Send a request for as long as the service takes it, and read what it answers."""
    with socket.create_connection((replica.host, replica.port), timeout=PATIENCE_S) as connection:
        connection.sendall(request.start)
        sent = 0
        piece = request.again * max(1, 60_000 // max(1, len(request.again)))
        until = time.monotonic() + SENDING_S
        while piece and sent < SENT_BYTES and time.monotonic() < until:
            readable, writable, _ = select.select([connection], [connection], [], PATIENCE_S)
            if readable and not connection.recv(1_000_000):
                return
            if writable:
                sent += connection.send(piece)
        connection.settimeout(2.0)
        while connection.recv(1_000_000):
            continue


UPGRADE_H2C = [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ"]
ODD_METHODS = ["PUT", "OPTIONS", "CONNECT", "TRACE", "get", "PRI", "", "\0", "M" * 300]
ODD_TARGETS = ["*", "//", "/%00", "http://a/predict", "a:1", "?", "", "/" * 99, "/predict?" + "a=&" * 200]
ODD_VERSIONS = ["HTTP/1.0", "HTTP/2.0", "HTTP/9", "", "http/1.1", "ICE/1.0"]
ODD_HEADERS = [
    *(b"Expect: something", b"Upgrade: websocket", b"Connection: keep-alive, close, upgrade"),
    *(b" folded: x", b"No-Colon", b"Space : x", b": nameless", b"Host: again", b"Content-Type: text/plain"),
    *(b"X-Forwarded-For: ,,,", b"X-Forwarded-For: [::1", b"X-Forwarded-For: \xff"),
    b"Content-Type: multipart/form-data; boundary=line; charset=utf-16",
]
IDLE: dict[str, bytes] = {
    "that say nothing": b"",
    "with half the headers": head("POST", "/predict"),
    "with half a body": head("POST", "/predict", b"Content-Type: image/png")
    + b"Content-Length: 9000\r\n\r\n"
    + bytes(99),
    "kept open after an answer": head("GET", "/health/live") + b"\r\n",
}


def beside_idle(replica: Replica, sent: bytes, count: int) -> tuple[int, int]:
    """How many probes of how many were answered while one address holds so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 500), hard))
    answered, probes = 0, 40
    with ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection((replica.host, replica.port), PATIENCE_S))
            with suppress(OSError):
                connection.sendall(sent)
        for _ in range(probes):
            with Client(replica.address, timeout_s=5.0) as client:
                answered += client.send("GET", "/health/live", b"", "").status == 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return answered, probes


def fuzzed(replica: Replica, picture: bytes, count: int, seed: int) -> Counter[str]:
    """What became of so many connections with a few requests each, put together at random.

    Each entry is the status of an answer, `closed` where a connection ended without another one, `silent` where it
    stayed open, or `broken` where what came is no answer in HTTP.
    """
    rng, outcomes = Random(seed), Counter[str]()
    for _ in range(count):
        with (
            suppress(OSError),
            socket.create_connection((replica.host, replica.port), timeout=PATIENCE_S) as connection,
        ):
            data = b"".join(_fragment(rng, picture) for _ in range(rng.randrange(1, 6)))
            with suppress(OSError):
                for piece in _pieces(rng, data):
                    connection.sendall(piece)
                if rng.random() < 0.3:
                    connection.shutdown(socket.SHUT_WR)
            outcomes.update(_outcomes(connection))
    return outcomes


def _outcomes(connection: socket.socket) -> Iterator[str]:
    received, end = b"", "closed"
    try:
        connection.settimeout(0.1)  # for the first byte and between any two
        while data := connection.recv(1_000_000):
            received += data
    except TimeoutError:
        end = "silent"
    except OSError:
        end = "closed"
    statuses = re.findall(rb"HTTP/1\.1 (\d{3}) ", received)
    if received and not received.startswith(b"HTTP/1.1 "):
        yield "broken"
    yield from (status.decode() for status in statuses if status != b"100")
    yield end


def _pieces(rng: Random, data: bytes) -> Iterator[bytes]:
    size = rng.choice([1 << 20, 1 << 20, 1000, 37])
    for at in range(0, min(len(data), 200 * size), size):
        yield data[at : at + size]


def _fragment(rng: Random, picture: bytes) -> bytes:
    """A request in which one thing at most is odd."""
    odd = rng.choice(["method", "target", "version", "length", "chunks", "header", "end", "cut", "nothing", "nothing"])
    method = rng.choice(ODD_METHODS if odd == "method" else ["GET", "POST", "POST", "HEAD"])
    target = rng.choice(ODD_TARGETS if odd == "target" else ["/predict", "/health/live", "/explain"])
    version = rng.choice(ODD_VERSIONS) if odd == "version" else "HTTP/1.1"
    body = rng.choice([b"", picture, picture[: len(picture) // 2], rng.randbytes(300)])
    headers = [b"Host: here", b"Content-Type: image/png"]
    if odd == "header":
        headers.insert(rng.randrange(3), rng.choice([*ODD_HEADERS, b"X: " + rng.randbytes(20)]))
    elif rng.random() < 0.3:
        headers += rng.choice([[b"Expect: 100-continue"], [b"Connection: close"], UPGRADE_H2C])
    if odd == "chunks" or rng.random() < 0.4:
        headers.append(b"Transfer-Encoding: chunked")
        body = _chunks(rng, body, odd == "chunks")
    elif odd == "length":
        headers += _odd_framing(rng, len(body))
    else:
        headers.append(b"Content-Length: %d" % len(body))
    end = rng.choice([b"\n", b"\r", b"\r\r\n"]) if odd == "end" else b"\r\n"
    data = end.join([f"{method} {target} {version}".encode(), *headers, b"", body])
    return data[: rng.randrange(len(data))] if odd == "cut" else data


def _chunks(rng: Random, body: bytes, are_odd: bool) -> bytes:
    if not are_odd:
        at = rng.randrange(len(body) + 1)
        return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:at], body[at:]) if part) + b"0\r\n\r\n"
    size = rng.choice([b"%x" % len(body), b"-1", b"", b"g", b"f" * 20, b"0", b"0x5", b" 5"])
    extension = rng.choice([b"", b";a=b", b";" + b"x" * 500, b';a="\r\n"'])
    trailers = rng.choice(
        [b"", b"X: y\r\n", b"X: y\r\n" * 300, b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"]
    )
    return size + extension + b"\r\n" + body + b"\r\n0\r\n" + trailers + rng.choice([b"\r\n", b"", b"\n"])


def _odd_framing(rng: Random, length: int) -> list[bytes]:
    wrong = length + rng.choice([-1, 1, 10**6, 10**19])
    return rng.choice(
        [
            [b"Content-Length: %d" % wrong],
            [b"Content-Length: %d" % length] * 2,
            [b"Content-Length: 1", b"Content-Length: 2"],
            [b"Content-Length: " + rng.choice([b"-1", b"+1", b"0x1", b"1,1", b"", b"\xb2", b"1 1"])],
            [b"Transfer-Encoding: " + rng.choice([b"gzip, chunked", b"chunked, chunked", b"\tchunked", b"xchunked"])],
            [b"Transfer-Encoding: chunked", b"Content-Length: %d" % length],
            [],
        ]
    )
