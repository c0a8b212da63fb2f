"""Connections that are slow, half closed, idle, too large or not HTTP at all: each ends by itself, and harms nobody."""

from __future__ import annotations

import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.api.application import create_app
from app.settings import Settings
from tests.support.asking import PNG, assert_problem, noise_bytes, png_bytes, predict
from tests.support.serving import serving, serving_app
from tests.support.waiting import PATIENCE_S, wait_until
from tests.support.wire import answer, answers, connected, drip, half_closed, is_closed, is_problem

HEADER_S, DEADLINE_S, UPLOAD_S = 0.5, 1.0, 5.0
UPLOADS_MAX_BYTES = 1_000_000
MOST_HEADERS_BYTES = 64 * 1024
PICTURE = png_bytes()
HOST, RAW = b"Host: test\r\n", b"Content-Type: image/png\r\n"
HEALTH = b"GET /health/live HTTP/1.1\r\n" + HOST
POST = b"POST /predict HTTP/1.1\r\n" + HOST + RAW
WHOLE = POST + b"Content-Length: %d\r\n\r\n" % len(PICTURE) + PICTURE


@pytest.fixture(scope="module")
def hurried_app(tiny_bundle: Path) -> FastAPI:
    """An application that waits for nobody."""
    return create_app(Settings(bundle=tiny_bundle, header_s=HEADER_S, deadline_s=DEADLINE_S))


@pytest.fixture(scope="module")
def hurried(hurried_app: FastAPI) -> Iterator[httpx.Client]:
    """Its client."""
    with serving_app(hurried_app) as client:
        yield client


@pytest.fixture(scope="module")
def frugal_app(tiny_bundle: Path) -> FastAPI:
    """An application with little memory for uploads, which may take long enough to be looked at meanwhile."""
    return create_app(Settings(bundle=tiny_bundle, deadline_s=UPLOAD_S, uploads_max_bytes=UPLOADS_MAX_BYTES))


@pytest.fixture(scope="module")
def frugal(frugal_app: FastAPI) -> Iterator[httpx.Client]:
    """Its client."""
    with serving_app(frugal_app) as client:
        yield client


@pytest.mark.parametrize("start", [b"GET /", HEALTH, HEALTH + b"X-Slow: "])
def test_headers_that_drip_in_are_ended_however_lively_they_look(hurried: httpx.Client, start: bytes) -> None:
    began_s = time.monotonic()
    with connected(hurried, start) as connection:
        drip(connection, b"X-A: b\r\n" if start.endswith(b"\n") else b"a", 0.05)
        assert time.monotonic() - began_s > 0.9 * HEADER_S
        status, headers, _ = answer(connection)
        assert (status, headers["connection"]) == (408, "close")
        assert is_closed(connection)


def test_a_connection_that_says_nothing_is_closed(hurried: httpx.Client) -> None:
    with connected(hurried) as connection:
        assert is_closed(connection)


def test_a_second_request_gets_no_more_time_than_the_first(hurried: httpx.Client) -> None:
    with connected(hurried, HEALTH + b"\r\n") as connection:
        assert answer(connection)[0] == 200
        connection.sendall(b"GET /heal")
        drip(connection, b"t", 0.05)
        assert answer(connection)[0] == 408
        assert is_closed(connection)


def test_a_body_that_drips_in_is_ended_at_the_deadline(hurried: httpx.Client) -> None:
    began_s = time.monotonic()
    with connected(hurried, POST, b"Content-Length: 100000\r\n\r\n", PICTURE[:100]) as connection:
        drip(connection, b"\0", 0.05)
        assert time.monotonic() - began_s > 0.9 * DEADLINE_S
        found = answer(connection)
        assert is_problem(found, 408, "upload-too-slow")
        assert found[1]["connection"] == "close"
        assert is_closed(connection)


def test_a_form_that_stops_is_ended_at_the_deadline(hurried: httpx.Client) -> None:
    form = b'--line\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + PICTURE[:50]
    head = POST.replace(RAW, b"Content-Type: multipart/form-data; boundary=line\r\n") + b"Content-Length: 9999\r\n\r\n"
    with connected(hurried, head, form) as connection:
        assert is_problem(answer(connection), 408, "upload-too-slow")
        assert is_closed(connection)


@pytest.mark.slow
def test_honest_clients_are_answered_beside_a_thousand_idle_connections(client: httpx.Client) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit[1] < 3_000:
        pytest.skip("SKIPPED LOUDLY: fewer than 3,000 open files are allowed here, so no thousand connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
    begun = (b"", b"P", POST, POST + b"Content-Length: 5000\r\n\r\n" + PICTURE[:100])
    try:
        with ExitStack() as stack:
            idle = [stack.enter_context(connected(client, begun[n % 4])) for n in range(1000)]
            for connection in idle[::3]:
                connection.shutdown(socket.SHUT_WR)
            address = str(client.base_url)
            with httpx.Client(base_url=address, timeout=PATIENCE_S, trust_env=False) as honest:
                assert all(predict(honest, PICTURE)["label"] for _ in range(10))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert predict(client, PICTURE)["label"]


def test_a_client_that_closes_its_half_is_taken_for_gone_and_leaves_nothing_behind(
    hurried: httpx.Client, hurried_app: FastAPI
) -> None:
    # One who hangs up looks the same to the server until something is written, and must cost no work.
    with connected(hurried, WHOLE) as connection, pytest.raises(ConnectionError):
        answers(half_closed(connection), 2)
    wait_until(lambda: hurried_app.state.upload_memory.used_bytes == 0)
    # Its decoder ended with it. Until another has started, this service, which waits for a second, may say so.
    wait_until(lambda: hurried.post("/predict", content=PICTURE, headers=PNG).status_code == 200)


def test_a_body_whose_sender_closes_its_half_early_ends_the_connection(hurried: httpx.Client) -> None:
    with connected(hurried, POST + b"Content-Length: 5000\r\n\r\n" + PICTURE[:100]) as connection:
        assert is_closed(half_closed(connection))


@pytest.mark.parametrize("shape", ["one long header", "many headers", "a long path"])
def test_headers_of_more_than_64_kb_are_refused(client: httpx.Client, shape: str) -> None:
    head = {
        "one long header": HEALTH + b"X-Long: " + b"a" * 100_000,
        "many headers": HEALTH + b"X-A: aaaaaaaa\r\n" * 8_000,
        "a long path": b"GET /" + b"a" * 100_000,
    }[shape]
    with connected(client) as connection:
        for at in range(0, len(head), 1000):
            if not select.select([connection], [], [], 0.0005)[0]:
                connection.sendall(head[at : at + 1000])
        status, headers, _ = answer(connection)
        assert (status, headers["connection"]) == (431, "close")
        assert is_closed(connection)


def test_headers_of_less_are_taken(client: httpx.Client) -> None:
    long = b"X-Long: " + b"a" * (MOST_HEADERS_BYTES - 1000) + b"\r\n\r\n"
    with connected(client, HEALTH, long) as connection:
        assert answer(connection)[0] == 200


@pytest.mark.parametrize("piece_bytes", [1, 7, 100_000])
def test_a_body_without_a_length_is_taken_in_pieces_of_any_size(client: httpx.Client, piece_bytes: int) -> None:
    pieces = [PICTURE[at : at + piece_bytes] for at in range(0, len(PICTURE), piece_bytes)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    with connected(client, POST + b"Transfer-Encoding: chunked\r\n\r\n", body) as connection:
        assert answer(connection)[0] == 200


LIES: dict[str, tuple[bytes, set[int]]] = {
    "no length, no body": (POST + b"\r\n", {400}),
    "a length that is no number": (POST + b"Content-Length: many\r\n\r\n", {400}),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n", {400}),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", {400}),
    "a length beyond all numbers": (POST + b"Content-Length: 99999999999999999999999999\r\n\r\n", {400, 413}),
    "a length and pieces": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    "pieces of no length": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", {400}),
    "a piece beyond all numbers": (POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\n", {400, 413}),
    "encodings that there are not": (POST + b"Transfer-Encoding: magic\r\n\r\nabc", {400, 501}),
    "a header without a name": (HEALTH + b": a\r\n\r\n", {400}),
    "a zero byte in a header": (HEALTH + b"X-A: \0\r\n\r\n", {400}),
    "another protocol": (b"EHLO example.org\r\n\r\n", {400}),
    "the start of TLS": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(200), {400}),
    "zeros": (bytes(5000), {400}),
    "a version that there is not": (b"GET / HTTP/9.9\r\n" + HOST + b"\r\n", {400, 505}),
    "the start of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_no_request_is_refused_and_the_connection_closed(client: httpx.Client, lie: str) -> None:
    sent, statuses = LIES[lie]
    with connected(client, sent) as connection:
        status = int(connection.makefile("rb").readline().split()[1])
        connection.shutdown(socket.SHUT_WR)
        assert status in statuses
        assert b"Traceback" not in b"".join(iter(lambda: connection.recv(65_536), b""))
    assert predict(client, PICTURE)["label"]


def test_a_length_that_is_too_small_cuts_the_picture_off(client: httpx.Client) -> None:
    head = POST + b"Content-Length: %d\r\n\r\n" % (len(PICTURE) // 2)
    with connected(client, head, PICTURE) as connection:
        # What is left of the picture is taken for the next request, which it is not: that may be seen first.
        assert int(connection.makefile("rb").readline().split()[1]) in (400, 422)
    assert predict(client, PICTURE)["label"]


def test_a_length_that_is_too_large_waits_for_the_rest_until_the_deadline(hurried: httpx.Client) -> None:
    with connected(hurried, POST + b"Content-Length: %d\r\n\r\n" % (len(PICTURE) + 1), PICTURE) as connection:
        assert is_problem(answer(connection), 408, "upload-too-slow")
        assert is_closed(connection)


def test_requests_sent_in_one_go_are_answered_in_their_order(client: httpx.Client) -> None:
    bad = POST + b"Content-Length: 5\r\n\r\nabcde"
    lost = b"GET /nowhere HTTP/1.1\r\n" + HOST + b"\r\n"
    with connected(client, WHOLE + bad + lost + HEALTH + b"\r\n" + WHOLE) as connection:
        assert [status for status, _, _ in answers(connection, 5)] == [200, 415, 404, 200, 200]


def test_many_requests_sent_in_one_go_are_answered(client: httpx.Client) -> None:
    with connected(client) as connection:
        sender = threading.Thread(target=connection.sendall, args=((HEALTH + b"\r\n") * 2_000,))
        sender.start()
        assert {status for status, _, _ in answers(connection, 2_000)} == {200}
        sender.join()


OTHER = "203.0.113.7"  # the address of another user


@contextmanager
def holding(client: httpx.Client, app: FastAPI, nbytes: int) -> Iterator[socket.socket]:
    """An upload of another user that has sent so many bytes, and goes on to hold the memory that they take."""
    before = app.state.upload_memory.used_bytes
    head = POST + b"X-Forwarded-For: %s\r\nContent-Length: %d\r\n\r\n" % (OTHER.encode(), nbytes + 1)
    with connected(client, head, bytes(nbytes)) as connection:
        wait_until(lambda: app.state.upload_memory.used_bytes == before + nbytes)
        yield connection


BIG = noise_bytes(350, 350)
ENDS: dict[str, Callable[[socket.socket], Any]] = {
    "by its last byte": lambda connection: connection.sendall(b"\0"),
    "by hanging up": lambda connection: connection.close(),
    "by the deadline": lambda connection: None,
}


@pytest.mark.parametrize("end", ENDS)
def test_uploads_share_a_budget_and_give_it_back(frugal: httpx.Client, frugal_app: FastAPI, end: str) -> None:
    assert UPLOADS_MAX_BYTES - 700_000 < len(BIG) < UPLOADS_MAX_BYTES
    with holding(frugal, frugal_app, 700_000) as connection:
        refused = frugal.post("/predict", content=BIG, headers=PNG)
        assert_problem(refused, 429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert predict(frugal, PICTURE)["label"]
        ENDS[end](connection)
        wait_until(lambda: frugal_app.state.upload_memory.used_bytes == 0)
    assert predict(frugal, BIG)["label"]


def test_one_user_cannot_take_the_whole_budget(frugal: httpx.Client, frugal_app: FastAPI) -> None:
    nbytes = UPLOADS_MAX_BYTES // 2 - 1000
    with holding(frugal, frugal_app, nbytes) as connection:
        of_the_same = frugal.post("/predict", content=BIG, headers={**PNG, "x-forwarded-for": OTHER})
        assert_problem(of_the_same, 429, "overloaded")
        assert predict(frugal, BIG)["label"]
        connection.close()
        wait_until(lambda: frugal_app.state.upload_memory.used_bytes == 0)
    again = frugal.post("/predict", content=BIG, headers={**PNG, "x-forwarded-for": OTHER})
    assert again.status_code == 200


def test_refused_uploads_give_back_what_they_took(frugal: httpx.Client, frugal_app: FastAPI) -> None:
    too_much = b"\x89PNG" + bytes(2 * UPLOADS_MAX_BYTES)
    for _ in range(5):
        assert_problem(frugal.post("/predict", content=too_much, headers=PNG), 413, "upload-too-large")
        assert frugal.post("/predict", content=b"no picture", headers=PNG).status_code == 415
    wait_until(lambda: frugal_app.state.upload_memory.used_bytes == 0)
    assert predict(frugal, BIG)["label"]


def test_an_endless_body_is_refused_by_the_limit_of_one_body(tiny_bundle: Path) -> None:
    with serving(Settings(bundle=tiny_bundle, max_upload_bytes=100_000)) as client:
        with connected(client, POST + b"Transfer-Encoding: chunked\r\n\r\n") as connection:
            drip(connection, b"2710\r\n" + bytes(10_000) + b"\r\n", 0.0)
            assert is_problem(answer(connection), 413, "upload-too-large")
        assert predict(client, PICTURE)["label"]
