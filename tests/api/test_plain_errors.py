"""Every refusal is a problem, whoever makes it: a route, the framework's own answers, or the parser of requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.server.http import MAX_HEADERS
from app.settings import Settings
from tests.support.asking import assert_problem
from tests.support.serving import serving
from tests.support.wire import answer, connected, is_closed

FOREIGN = {"origin": "https://foreign.example", "access-control-request-method": "GET"}


@pytest.fixture(scope="module")
def client(tiny_bundle: Path) -> Iterator[httpx.Client]:
    """A client of a service for pages of another origin, which does not wait long for headers."""
    with serving(Settings(bundle=tiny_bundle, header_s=0.5, cors_origins=("https://elsewhere.example",))) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/docs", "/web/app.js", "/web/examples/drawn.webp"])
@pytest.mark.parametrize(
    ("asked", "status", "name"),
    [
        ("bytes=99999999-", 416, "range-not-satisfiable"),
        ("bytes=5-1", 400, "bad-request"),
        ("lines=1-2", 400, "bad-request"),
        ("bytes", 400, "bad-request"),
    ],
)
def test_a_wrong_range_is_a_problem(client: httpx.Client, path: str, asked: str, status: int, name: str) -> None:
    answered = client.get(path, headers={"range": asked})
    assert "Range" in assert_problem(answered, status, name) or status == 400
    assert ("content-range" in answered.headers) is (status == 416)
    head = client.head(path, headers={"range": asked})
    assert (head.status_code, head.content) == (status, b"")
    assert head.headers["content-length"] == answered.headers["content-length"]


def test_a_range_that_is_there_is_sent(client: httpx.Client) -> None:
    answered = client.get("/web/app.js", headers={"range": "bytes=0-9"})
    assert (answered.status_code, len(answered.content)) == (206, 10)


def test_a_refused_preflight_is_a_problem(client: httpx.Client) -> None:
    assert "origin" in assert_problem(client.options("/model", headers=FOREIGN), 400, "bad-request")


REFUSED = {  # what the server refuses before any route sees it, but for the method
    "too many headers": (b"/ HTTP/1.1\r\nHost: test\r\n" + b"X-A: b\r\n" * (MAX_HEADERS + 1) + b"\r\n", 431),
    "no host": (b"/ HTTP/1.1\r\n\r\n", 400),
    "another version": (b"/ HTTP/1.2\r\nHost: test\r\n\r\n", 400),
    "a broken header": (b"/ HTTP/1.1\r\nHost: test\r\nA b\r\n\r\n", 400),
    "raw UTF-8": ("/web/é.js?ü=1 HTTP/1.1\r\nHost: test\r\n\r\n".encode(), 400),
    "raw bytes": (b"/model?x=\xff\xfe HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    "no end": (b"/ HTTP/1.1\r\nHost: test\r\n", 408),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_request_that_no_route_sees_gets_a_problem_and_head_no_body(
    client: httpx.Client, kind: str, method: str
) -> None:
    rest, status = REFUSED[kind]
    with connected(client, method.encode() + b" " + rest) as connection:
        file = connection.makefile("rb")
        assert int(file.readline().split()[1]) == status
        headers = dict(line.decode().lower().strip().split(": ", 1) for line in iter(file.readline, b"\r\n"))
        body = file.read()
    assert headers["content-type"] == "application/problem+json" and headers["connection"] == "close"
    if method == "HEAD":
        assert body == b"" and int(headers["content-length"]) > 0
    else:
        assert json.loads(body)["status"] == status and len(body) == int(headers["content-length"])


@pytest.mark.parametrize("target", ["/modèle", "/model?klass=böse", "/predictions/日本/picture", "/\u2028"])
def test_a_target_that_is_not_escaped_is_told_how_to_be(client: httpx.Client, target: str) -> None:
    with connected(client, f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode()) as connection:
        status, _, body = answer(connection)
        assert is_closed(connection)
    problem = json.loads(body)
    assert (status, problem["type"]) == (400, "urn:fusionlens:problem:malformed-target")
    assert "%C3%A9" in problem["detail"]


def test_the_method_of_an_earlier_request_is_not_that_of_a_later_one(client: httpx.Client) -> None:
    """Which is refused before its own method is known."""
    first = b"HEAD /health/live HTTP/1.1\r\nHost: test\r\n\r\n"
    with connected(client, first) as connection:
        file = connection.makefile("rb")
        assert file.readline().split()[1] == b"200"
        while file.readline() != b"\r\n":
            pass
        connection.sendall(b"\x16\x03\x01\r\n\r\n")
        assert file.readline().split()[1] == b"400"
        while file.readline() != b"\r\n":
            pass
        assert json.loads(file.read())["status"] == 400
