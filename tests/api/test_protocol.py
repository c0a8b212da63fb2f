"""What a client can do below HTTP's surface: it keeps no memory, holds up nobody, and loses no honest request."""

from __future__ import annotations

import json
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from app.server import closing
from app.server.connections import Connections, Wait
from app.server.http import MAX_HEADERS
from app.settings import Settings
from tests.support import served_process as process
from tests.support.asking import PNG, png_bytes
from tests.support.serving import serving
from tests.support.waiting import PATIENCE_S, wait_until
from tests.support.wire import answer, answers, connected, drip, is_closed, is_problem

HEADER_S = 0.5
PICTURE = png_bytes()
HOST = b"Host: test\r\n"
HEALTH = b"GET /health/live HTTP/1.1\r\n" + HOST
POST = b"POST /predict HTTP/1.1\r\n" + HOST + b"Content-Type: image/png\r\n"
TEXT = POST.replace(b"image", b"text")
UPGRADE = b"Connection: upgrade\r\nUpgrade: h2c\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(PICTURE)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
WHOLE = POST + LENGTH + b"\r\n" + PICTURE
# Buffers of the two kernels: what can be sent although nobody reads it.
UNREAD_BYTES = 16_000_000


@pytest.fixture(scope="module")
def client(tiny_bundle: Path) -> Iterator[httpx.Client]:
    """A client of a service that does not wait long for headers."""
    with serving(Settings(bundle=tiny_bundle, header_s=HEADER_S)) as client:
        yield client


def sent_until_refused(connection: socket.socket, piece: bytes, most_bytes: int) -> int:
    """Send a piece again and again until the other side answers or closes. Returns how many bytes were sent."""
    sent = 0
    with suppress(ConnectionError):
        while sent < most_bytes and not select.select([connection], [], [], 0)[0]:
            connection.sendall(piece)
            sent += len(piece)
    return sent


# Each is a whole request but for an end, and what then goes on without one.
ENDLESS = {
    "trailers": (POST + CHUNKED + b"\r\n0\r\n", b"X-A: b\r\n" * 1000),
    "one trailer": (POST + CHUNKED + b"\r\n0\r\nX-A: ", b"a" * 8000),
    "trailers after an answer": (HEALTH + CHUNKED + b"\r\n0\r\n", b"X-A: b\r\n" * 1000),
    "a chunk's extension": (POST + CHUNKED + b"\r\n1;", b"a" * 8000),
    "extensions of chunks": (POST + CHUNKED + b"\r\n", (b"1;" + b"a" * 1000 + b"\r\nb\r\n") * 8),
    "chunks of one byte": (POST + CHUNKED + b"\r\n", b"1\r\nb\r\n" * 2000),
    "zeros before a chunk's size": (POST + CHUNKED + b"\r\n", b"0" * 8000),
    "a coding that there is not": (POST + b"Transfer-Encoding: gzip\r\n" + UPGRADE + b"\r\n", b"a" * 8000),
    "empty lines before a request": (b"", b"\r\n" * 4000),
    "empty lines after a request": (HEALTH + b"\r\n", b"\r\n" * 4000),
    "tiny headers": (HEALTH, b"a:\r\n" * 2000),
    "a body of a route without one": (HEALTH + b"Content-Length: 999999999999\r\n\r\n", bytes(8000)),
    "a body of no route": (b"PUT /x HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n", b"1000\r\n" + bytes(4096) + b"\r\n"),
    "a body of another type": (
        POST.replace(b"image", b"text") + CHUNKED + b"\r\n",
        b"1000\r\n" + bytes(4096) + b"\r\n",
    ),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_has_no_end_is_ended(client: httpx.Client, kind: str) -> None:
    start, piece = ENDLESS[kind]
    with connected(client, start) as connection:
        assert sent_until_refused(connection, piece, UNREAD_BYTES) < UNREAD_BYTES
        with suppress(ConnectionError):  # and whoever does not listen is cut off
            while select.select([connection], [], [], 0)[0] and connection.recv(65_536):
                continue
            sent = sent_until_refused(connection, piece, 2 * closing.LINGER_BYTES)
            assert sent < closing.LINGER_BYTES + UNREAD_BYTES
    assert client.get("/health/live").status_code == 200


def test_trailers_and_extensions_are_allowed_as_far_as_anyone_needs_them(client: httpx.Client) -> None:
    body = b"%x;name=value\r\n%b\r\n0\r\nX-Checksum: abc\r\n\r\n" % (len(PICTURE), PICTURE)
    with connected(client, POST + CHUNKED + b"\r\n", body, HEALTH + b"\r\n") as connection:
        assert [status for status, _, _ in answers(connection, 2)] == [200, 200]


@pytest.mark.parametrize(("count", "status"), [(MAX_HEADERS - 1, 200), (MAX_HEADERS, 431)])
def test_so_many_headers_are_taken(client: httpx.Client, count: int, status: int) -> None:
    with connected(client, HEALTH + b"X-A: b\r\n" * count + b"\r\n") as connection:
        assert answer(connection)[0] == status


def test_an_upload_that_is_too_large_gets_its_answer_although_it_goes_on(tiny_bundle: Path) -> None:
    with serving(Settings(bundle=tiny_bundle, max_upload_bytes=1_000_000)) as client:
        for _ in range(10):
            with connected(client, POST + b"Content-Length: 20000000\r\n\r\n", bytes(20_000_000)) as connection:
                found = answer(connection)
                assert is_problem(found, 413, "upload-too-large")
                assert found[1]["connection"] == "close"
                assert is_closed(connection)


UPGRADES = {
    "h2c, as curl sends it": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n",
    "websocket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "another protocol": b"Connection: upgrade\r\nUpgrade: TLS/1.0, irc/6.9\r\n",
}
BODIES = {
    "a length": LENGTH + b"\r\n" + PICTURE,
    "chunks": CHUNKED + b"\r\n" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(PICTURE), PICTURE),
}


@pytest.mark.parametrize("piece_bytes", [1000, 1_000_000])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("upgrade", UPGRADES)
def test_the_wish_for_another_protocol_is_ignored(
    client: httpx.Client, upgrade: str, body: str, piece_bytes: int
) -> None:
    sent = POST + UPGRADES[upgrade] + BODIES[body] + HEALTH + UPGRADES[upgrade] + b"\r\n" + WHOLE
    with connected(client) as connection:
        for at in range(0, len(sent), piece_bytes):
            connection.sendall(sent[at : at + piece_bytes])
        found = answers(connection, 3)
    assert [status for status, _, _ in found] == [200, 200, 200]
    labels = [json.loads(body)["label"] for _, _, body in (found[0], found[2])]
    assert labels[0] == labels[1]


@pytest.mark.skipif(shutil.which("curl") is None, reason="SKIPPED LOUDLY: curl is not installed")
@pytest.mark.parametrize("option", ["--http1.1", "--http2", "--http1.0"])
def test_curl_gets_an_answer_with_any_of_its_protocols(client: httpx.Client, tmp_path: Path, option: str) -> None:
    (file := tmp_path / "picture.png").write_bytes(PICTURE)
    for form in (["-F", f"file=@{file}"], ["--data-binary", f"@{file}", "-H", "Content-Type: image/png"]):
        for expect in ([], ["-H", "Expect: 100-continue"]):
            command = ["curl", "-sS", "--noproxy", "*", option, *form, *expect, f"{client.base_url}/predict"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
            assert "label" in json.loads(done.stdout), (command, done)


EXPECT = b"Expect: 100-Continue\r\n"


def test_who_asks_first_is_told_to_go_on(client: httpx.Client) -> None:
    with connected(client, POST + EXPECT + LENGTH + b"\r\n") as connection:
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(PICTURE + HEALTH + b"\r\n")
        assert [status for status, _, _ in answers(connection, 2)] == [200, 200]


def test_who_asks_first_and_is_refused_sends_nothing(client: httpx.Client) -> None:
    with connected(client, TEXT + EXPECT + LENGTH + b"\r\n") as connection:
        found = answer(connection)
        assert (found[0], found[1]["connection"]) == (415, "close")
        assert is_closed(connection)


def test_a_client_of_http_1_0_gets_no_interim_answer(client: httpx.Client) -> None:
    old = POST.replace(b"HTTP/1.1", b"HTTP/1.0") + EXPECT + LENGTH + b"\r\n"
    with connected(client, old + PICTURE) as connection:
        assert answer(connection)[0] == 200
        assert is_closed(connection)


def test_half_a_request_takes_nothing_from_those_before_it(client: httpx.Client) -> None:
    count = 60  # whose answers take longer than the headers of one may
    with connected(client, WHOLE * count + HEALTH) as connection:
        found = answers(connection, count + 1)
        assert [status for status, _, _ in found] == [200] * count + [408]
        assert is_closed(connection)


def test_nonsense_takes_nothing_from_the_request_before_it(client: httpx.Client) -> None:
    with connected(client, WHOLE * 3 + b"\0 nonsense \0\r\n\r\n") as connection:
        found = answers(connection, 4)
        assert [status for status, _, _ in found] == [200, 200, 200, 400]
        assert is_problem(found[-1], 400, "malformed-request")
        assert is_closed(connection)


GET = "GET /health/live HTTP/1.1\r\n"
NOT_STANDARD = [GET, f"{GET}Host: a\r\nHost: b\r\n", "GET / HTTP/2.0\r\nHost: a\r\n", "GET /health/live\r\n"]


@pytest.mark.parametrize("head", NOT_STANDARD)
def test_what_the_standard_wants_refused_is_refused(client: httpx.Client, head: str) -> None:
    with connected(client, head.encode() + b"\r\n") as connection:
        assert is_problem(answer(connection), 400, "malformed-request")
        assert is_closed(connection)


def test_a_coding_that_there_is_not_is_refused_even_beside_an_upgrade(client: httpx.Client) -> None:
    for upgrade in (b"", UPGRADE):
        with connected(client, POST + b"Transfer-Encoding: gzip\r\n" + upgrade + b"\r\n") as connection:
            assert is_problem(answer(connection), 400, "malformed-request")


def test_waiting_for_a_connection_to_end_costs_nothing(client: httpx.Client) -> None:
    before_s = sum(psutil.Process().cpu_times()[:2])
    refused = TEXT + b"Content-Length: 900000\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connected(client, refused, bytes(300_000)))
        time.sleep(2.0)
        spent_s = sum(psutil.Process().cpu_times()[:2]) - before_s
    assert spent_s < 1.5  # of two; it was all of it when what came late was looked at again and again


def test_refusals_are_counted(client: httpx.Client) -> None:
    def counted() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        found = [line.split('"') for line in lines if line.startswith("fusionlens_refusals_total")]
        return {name: float(value.split()[-1]) for _, name, value in found}

    before = counted()
    for sent in (b"\0\0\0\0\r\n\r\n", HEALTH + b"a:\r\n" * 300, POST + CHUNKED + b"\r\n1;" + b"a" * 200_000):
        with connected(client) as connection, suppress(ConnectionError):
            connection.sendall(sent)
            assert answer(connection)[0] in (400, 431)
    wait_until(lambda: counted().get("headers-too-large", 0) - before.get("headers-too-large", 0) == 2)
    assert counted()["malformed-request"] - before.get("malformed-request", 0) == 1
    assert counted().get("client-gone", 0) == before.get("client-gone", 0)


def test_empty_lines_keep_no_connection_open(client: httpx.Client) -> None:
    with connected(client, HEALTH + b"\r\n") as connection:
        assert answer(connection)[0] == 200
        drip(connection, b"\r\n", 0.05)
        assert is_closed(connection)


def test_requests_by_the_thousand_do_not_pile_up(client: httpx.Client) -> None:
    with connected(client) as connection:  # which reads no answer, so no more than kernels hold may be taken
        connection.settimeout(1.0)
        sent = 0
        with suppress(TimeoutError, ConnectionError):
            while sent < 2 * UNREAD_BYTES:
                sent += connection.send((HEALTH + b"\r\n") * 1000)
        assert sent < 2 * UNREAD_BYTES


def test_who_does_not_read_is_disconnected(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "STALL_S", 0.3)
    ask, count = b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n", 400
    with serving(Settings(bundle=tiny_bundle)) as client, connected(client, ask * count) as connection:
        own = connection.getsockname()
        this_process = psutil.Process()

        def is_held() -> bool:
            return any(held.raddr == own for held in this_process.net_connections("tcp"))

        wait_until(is_held)  # accepted
        wait_until(lambda: not is_held())
        with pytest.raises(ConnectionError):
            answers(connection, count)


@pytest.mark.slow
def test_who_reads_slowly_gets_everything(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "STALL_S", 0.5)
    monkeypatch.setattr(closing, "MIN_READ_BYTES", 1)
    ask, count = b"GET /openapi.json HTTP/1.1\r\n" + HOST, 400
    last = ask + b"Connection: close\r\n\r\n"
    with serving(Settings(bundle=tiny_bundle)) as client, connected(client, (ask + b"\r\n") * count + last) as reader:
        began_s, read = time.monotonic(), []
        while data := reader.recv(100_000):
            read.append(data)
            time.sleep(0.01)
        assert b"".join(read).count(b"HTTP/1.1 200 OK") == count + 1
        assert time.monotonic() - began_s > 2 * closing.STALL_S


FILES = 128
IDLE: dict[str, bytes] = {
    "nothing": b"",
    "half a line": b"GET /he",
    "half the headers": POST,
    "half a body": POST + LENGTH + b"\r\n" + PICTURE[:100],
    "a whole request": HEALTH + b"\r\n",
    "requests whose answers nobody reads": (b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n") * 80,
    "an answer of which nobody reads the end": b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n",
    "a chunk and no more": POST + CHUNKED + b"\r\n5\r\nabcde\r\n",
}


@pytest.fixture(scope="module")
def crowded(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[process.Served]:
    """A service that may open few files."""
    env = process.environment(process.ROOT, FUSIONLENS_BUNDLE=str(tiny_bundle), FUSIONLENS_DRAIN_S="0")
    with process.serving(tmp_path_factory.mktemp("crowded"), env, files=FILES) as served:
        yield served


@pytest.mark.slow
@pytest.mark.parametrize("kind", IDLE)
def test_honest_clients_are_answered_beside_a_thousand_connections_of_one_address(
    crowded: process.Served, kind: str
) -> None:
    with ExitStack() as stack, httpx.Client(base_url=crowded.address, trust_env=False, timeout=PATIENCE_S) as honest:
        assert honest.post("/predict", content=PICTURE, headers=PNG).status_code == 200
        for number in range(200 if "answer" in kind else 1000):  # what is answered is work for slow machines
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", crowded.port), timeout=PATIENCE_S))
            with suppress(ConnectionError):
                idle.sendall(IDLE[kind])
            if number % 50 == 0:
                check_new_and_kept_connection(honest)
        check_new_and_kept_connection(honest)
        for _ in range(20):
            assert honest.post("/predict", content=PICTURE, headers=PNG).status_code == 200
        assert psutil.Process(crowded.process.pid).num_fds() < FILES


def check_new_and_kept_connection(honest: httpx.Client) -> None:
    """Both are answered.

    The new one goes first: its answer says that all connections before it have been accepted. Before that, the kept
    connection may be closed to make room for one of them just as a request is sent on it, which no server can avoid and
    clients repeat (RFC 9112, section 9.3.1).
    """
    assert httpx.get(honest.base_url.join("/health/live"), trust_env=False, timeout=PATIENCE_S).status_code == 200
    assert honest.get("/health/live").status_code == 200


def test_who_makes_room_within_a_request_is_told(crowded: process.Served) -> None:
    with ExitStack() as stack:
        held = []
        for _ in range(FILES):
            connection = socket.create_connection(("127.0.0.1", crowded.port), timeout=PATIENCE_S)
            held.append(stack.enter_context(connection))
            connection.sendall(POST + LENGTH + b"\r\n" + PICTURE[:100])
            connection.settimeout(0.02)
            with suppress(TimeoutError):  # until the service has looked at it, or not at all on a slow machine
                connection.recv(1, socket.MSG_PEEK)
            connection.settimeout(PATIENCE_S)
        assert is_problem(answer(held[0]), 503, "too-many-connections")
        assert is_closed(held[0])


class Client:
    """A connection to a pool."""

    def __init__(self, address: str, wait: Wait | None = Wait.FIRST_BYTE) -> None:
        self.client: tuple[str, int] | None = (address, 1)
        self.wait, self.displaced = wait, False

    def displace(self) -> None:
        self.displaced = True


def test_who_has_most_connections_makes_room() -> None:
    pool = Connections(max_connections=8)
    crowd = [Client("192.0.2.1"), Client("192.0.2.1"), *(Client(f"192.0.2.{n}") for n in range(2, 8))]
    assert all(pool.admit(connection) for connection in crowd)
    assert pool.admit(Client("192.0.2.9"))
    assert [connection.displaced for connection in crowd] == [True] + [False] * 7


def test_one_address_has_its_share_and_its_useful_connections_go_last() -> None:
    share = len(Wait) + 1
    pool, kinds = Connections(max_connections=4 * share), [None, *reversed(Wait)]
    held = [Client(f"2001:db8::{number}", wait) for number, wait in enumerate(kinds)]
    assert all(pool.admit(connection) for connection in held)
    for expected in reversed(held[1:]):
        assert pool.admit(Client("2001:db8::f", None)) and expected.displaced
        assert sum(connection.displaced for connection in held) == len(held) - held.index(expected)
    assert not pool.admit(Client("2001:db8::f")) and not held[0].displaced
    assert len(pool) == share and pool.admit(Client("2001:db9::f"))


def test_the_one_that_was_used_last_goes_last() -> None:
    pool = Connections(max_connections=8)
    first, second = Client("192.0.2.1", Wait.NEXT_REQUEST), Client("192.0.2.1", Wait.NEXT_REQUEST)
    assert pool.admit(first) and pool.admit(second)
    pool.answered(first)
    assert pool.admit(Client("192.0.2.1")) and (first.displaced, second.displaced) == (False, True)


def test_a_pool_forgets_what_is_closed() -> None:
    pool, connection = Connections(max_connections=4), Client("192.0.2.1")
    for _ in range(3):
        assert pool.admit(connection)
        pool.discard(connection)
    assert len(pool) == 0
