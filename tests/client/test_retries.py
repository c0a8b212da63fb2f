"""When the client asks again: as `Retry-After` says, within its bound, and never what is not safe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fusionlens_client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    Overloaded,
    Problem,
    StoreUnavailable,
    TooManyRequests,
)
from fusionlens_client.retries import MAX_RECONNECTIONS, Attempts, retry_after_s

from tests.client.test_problems import problem
from tests.support.asking import png_bytes
from tests.support.scripted_server import HANG_UP, Answer, scripted

Ask = Callable[..., Any]
LIVE = Answer(body=b'{"status": "live"}')
PAST, FUTURE = "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 2999 23:59:59 GMT"


def ask_sync(address: str, question: str, *arguments: Any, **options: Any) -> Any:
    with Client(address, **options) as client:
        return getattr(client, question)(*arguments)


def ask_async(address: str, question: str, *arguments: Any, **options: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(address, **options) as client:
            return await getattr(client, question)(*arguments)

    return asyncio.run(ask())


@pytest.fixture(params=[ask_sync, ask_async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Asks one question of the service at an address, by each of the two clients."""
    function: Ask = request.param
    return function


@pytest.mark.parametrize(("name", "status"), [("overloaded", 429), ("not-ready", 503)])
def test_the_service_is_asked_again_when_it_said(ask: Ask, name: str, status: int) -> None:
    with scripted(problem(name, status, **{"Retry-After": "1"}), LIVE) as server:
        assert ask(server.address, "live").status == "live"
        first, second = server.requests
    assert second.at_s - first.at_s >= 1 and first.target == second.target


@pytest.mark.parametrize("value", ["0", PAST])
def test_a_picture_that_was_refused_is_sent_again_as_it_was(ask: Ask, value: str) -> None:
    refusal = problem("too-many-requests", 429, **{"Retry-After": value})
    with scripted(refusal, problem("bad-parameter", 422)) as server:
        with pytest.raises(Problem):
            ask(server.address, "predict", png_bytes())
        bodies = [png_bytes() in request.body for request in server.requests]
    assert bodies == [True, True] and {request.method for request in server.requests} == {"POST"}


@pytest.mark.parametrize("value", ["31", "999999999", FUTURE])
def test_a_wait_beyond_the_bound_is_not_begun(ask: Ask, value: str) -> None:
    with scripted(problem("too-many-requests", 429, **{"Retry-After": value}), LIVE) as server:
        with pytest.raises(TooManyRequests) as refused:
            ask(server.address, "live")
        assert len(server.requests) == 1
    assert refused.value.retry_after_s is not None and refused.value.retry_after_s > 30


def test_all_waits_together_are_bounded(ask: Ask) -> None:
    with scripted(problem("overloaded", 429, **{"Retry-After": "0"})) as server:
        with pytest.raises(Overloaded):
            ask(server.address, "live", max_wait_s=0.35)  # a wait takes a tenth of a second at least
        assert len(server.requests) == 4
    with scripted(problem("overloaded", 429, **{"Retry-After": "0"})) as server:
        with pytest.raises(Overloaded):
            ask(server.address, "live", max_wait_s=0)
        assert len(server.requests) == 1


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "soon"}, {"Retry-After": "-1"}, {"Retry-After": "1.5"}])
def test_without_a_time_to_come_back_nothing_is_asked_again(ask: Ask, headers: dict[str, str]) -> None:
    with scripted(problem("store-unavailable", 503, **headers), LIVE) as server:
        with pytest.raises(StoreUnavailable) as refused:
            ask(server.address, "live")
        assert len(server.requests) == 1 and refused.value.retry_after_s is None


@pytest.mark.parametrize("status", [400, 404, 500, 504])
def test_other_errors_are_not_asked_again(ask: Ask, status: int) -> None:
    with scripted(Answer(status, headers={"Retry-After": "0"}), LIVE) as server:
        with pytest.raises(Problem):
            ask(server.address, "live")
        assert len(server.requests) == 1


def test_a_connection_that_broke_off_is_made_again_for_what_changes_nothing(ask: Ask) -> None:
    with scripted(HANG_UP, HANG_UP, LIVE) as server:
        assert ask(server.address, "live").status == "live"
        assert len(server.requests) == 3
    with scripted(HANG_UP) as server:
        with pytest.raises(ConnectionFailed, match="broke off"):
            ask(server.address, "live")
        assert len(server.requests) == 1 + MAX_RECONNECTIONS


def test_a_picture_that_may_have_arrived_is_not_sent_again(ask: Ask) -> None:
    with scripted(HANG_UP) as server:
        with pytest.raises(ConnectionFailed, match="broke off"):
            ask(server.address, "predict", png_bytes())
        assert len(server.requests) == 1


def test_a_connection_that_was_never_made_is_tried_again_for_every_request() -> None:
    for changes_nothing in (False, True):
        attempts = Attempts(changes_nothing, 30.0)
        waits = [attempts.wait_s(httpx.ConnectError("refused")) for _ in range(MAX_RECONNECTIONS + 1)]
        assert all(waits[:-1]) and waits[-1] is None
    assert Attempts(True, 30.0).wait_s(httpx.ReadTimeout("slow")) is None
    assert Attempts(True, 0.0).wait_s(httpx.ConnectError("refused")) is None


def test_a_date_is_a_time_to_wait() -> None:
    wait_s = retry_after_s(httpx.Response(503, headers={"Retry-After": FUTURE}))
    assert wait_s is not None and wait_s > 1e9
    assert retry_after_s(httpx.Response(503, headers={"Retry-After": PAST})) == 0
    assert retry_after_s(httpx.Response(503)) is None
