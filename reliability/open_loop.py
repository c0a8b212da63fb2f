"""Open-loop load from a process of its own: requests leave at random times, whether or not others were answered.

Closed-loop clients wait for a slow server and so hide how slow it is. Each request has a connection of its own, as
many clients would have. python -m reliability.open_loop ADDRESS PICTURE --rate R --count N prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import urlsplit

TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Sent:
    """What became of one request: `status` is 0 where no whole answer came, and `error` says why then."""

    began_s: float
    took_ms: float
    status: int
    retry_after_s: int | None = None
    error: str = ""


@dataclass(frozen=True)
class OpenLoad:
    """A whole run, which began at `began_s` of this machine's `perf_counter`.

    `late_ms` is how much later than planned the sender was at its worst.
    """

    rate: float
    began_s: float
    sent: list[Sent] = field(default_factory=list)
    late_ms: float = 0.0

    @property
    def statuses(self) -> dict[int, int]:
        return dict(sorted(Counter(one.status for one in self.sent).items()))

    @property
    def lost(self) -> list[Sent]:
        """What was neither answered nor told to come back."""
        return [one for one in self.sent if one.status not in (200, 429)]

    def of(self, status: int) -> list[Sent]:
        return [one for one in self.sent if one.status == status]

    def under_way(self, start_s: float, end_s: float) -> list[Sent]:
        """Those that began before this time ended, and ended after it began; both by `perf_counter`."""
        start_s, end_s = start_s - self.began_s, end_s - self.began_s
        return [one for one in self.sent if one.began_s <= end_s and one.began_s + one.took_ms / 1e3 >= start_s]

    @classmethod
    def from_json(cls, text: str) -> OpenLoad:
        content = json.loads(text)
        return cls(content["rate"], content["began_s"], [Sent(**one) for one in content["sent"]], content["late_ms"])


class Sender:
    """The sender in a process of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        self._output = TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(command, stdout=self._output)

    def is_sending(self) -> bool:
        return self.process.poll() is None

    def finished(self) -> OpenLoad:
        """Wait for it; what it measured. Raises RuntimeError if it failed."""
        if self.process.wait():
            raise RuntimeError("the sender failed; its output is above")
        self._output.seek(0)
        return OpenLoad.from_json(self._output.read())


@contextmanager
def sending(
    address: str, picture: Path, rate: float, count: int, core: int | None = None, ca: Path | None = None
) -> Iterator[Sender]:
    """Start the sender, on one core if that is said. `ca` is the authority that signed the server's certificate."""
    options = ["--rate", str(rate), "--count", str(count), *(["--ca", str(ca)] if ca else [])]
    command = [sys.executable, "-m", "reliability.open_loop", address, str(picture), *options]
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    sender = Sender(command)
    try:
        yield sender
    finally:
        sender.process.kill()
        sender.process.wait()


async def send_all(address: str, body: bytes, rate: float, count: int, context: ssl.SSLContext | None) -> OpenLoad:
    """Send `count` requests, `rate` a second on average, as a Poisson process of a fixed seed."""
    host = urlsplit(address)
    head = (
        f"POST /predict HTTP/1.1\r\nhost: {host.netloc}\r\ncontent-type: image/jpeg\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    request, gaps = head.encode() + body, random.Random(7)
    began, due, late_ms, running = time.perf_counter(), 0.0, 0.0, []
    for _ in range(count):
        due += gaps.expovariate(rate)
        if (pause := began + due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        late_ms = max(late_ms, (time.perf_counter() - began - due) * 1e3)
        running.append(asyncio.create_task(_send(host.hostname or "", host.port or 443, request, context, began)))
    return OpenLoad(rate, began, [await one for one in running], late_ms)


async def _send(host: str, port: int, request: bytes, context: ssl.SSLContext | None, since: float) -> Sent:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                writer.write(request)
                answer = await reader.read(-1)
            finally:
                writer.close()
        head, found, body = answer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        if not found or len(body) != int(headers.get("content-length", -1)):
            raise ConnectionError(f"the answer breaks off after {len(answer)} bytes")
        retry_after = int(headers["retry-after"]) if "retry-after" in headers else None
        status, error = int(lines[0].split()[1]), ""
    except (OSError, TimeoutError, ValueError) as failure:
        status, retry_after, error = 0, None, f"{type(failure).__name__}: {failure}"
    return Sent(began - since, (time.perf_counter() - began) * 1e3, status, retry_after, error)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m reliability.open_loop")
    parser.add_argument("address")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--ca", type=Path, help="certificate of the authority that signed the server's")
    args = parser.parse_args(arguments)
    context = ssl.create_default_context(cafile=args.ca) if args.ca else None
    load = asyncio.run(send_all(args.address, args.picture.read_bytes(), args.rate, args.count, context))
    print(json.dumps(asdict(load)))


if __name__ == "__main__":
    main()
