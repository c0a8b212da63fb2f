"""Passes of several items: what is there goes together, and nobody waits long for company."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from app.errors import DeadlineExceeded, UnreadablePicture
from app.serving.queue import TimedResult, WorkQueue, in_threads
from tests.serving.test_queue import Gate, cancelled, in_time, so, tried

Names = WorkQueue[str, str]


def ask(lane: Names, names: str) -> list[asyncio.Task[TimedResult[str]]]:
    """A caller for every letter."""
    return [asyncio.create_task(lane.run(name, in_time())) for name in names]


async def said(callers: Sequence[asyncio.Task[TimedResult[str]]]) -> str:
    """What the callers were answered, in their order."""
    return "".join(ran.result for ran in await asyncio.gather(*callers))


def test_what_came_during_a_pass_goes_together_into_the_next() -> None:
    async def test() -> None:
        gate = Gate()
        lane = Names(in_threads(gate.batch, 1), 1, queue_limit=50, max_batch=3)
        callers = ask(lane, "a")
        await so(lambda: gate.inside == 1)
        callers += ask(lane, "bcdef")
        await asyncio.sleep(0.01)
        gate.open()
        assert await said(callers) == "ABCDEF"
        assert gate.began == [("a",), ("b", "c", "d"), ("e", "f")]

    tried(test)


def test_a_full_batch_does_not_wait() -> None:
    async def test() -> None:
        gate = Gate()
        gate.open()
        lane = Names(in_threads(gate.batch, 1), 1, queue_limit=50, max_batch=4, gather_s=100.0)
        assert await said(ask(lane, "abcd")) == "ABCD"
        assert gate.began == [("a", "b", "c", "d")]

    tried(test)


def test_one_who_is_alone_waits_for_others_only_so_long() -> None:
    async def test() -> None:
        gate = Gate()
        gate.open()
        lane = Names(in_threads(gate.batch, 1), 1, queue_limit=50, max_batch=4, gather_s=1.0)
        first = ask(lane, "a")
        await asyncio.sleep(0.05)
        second = ask(lane, "b")
        alone, with_it = (await first[0]).waited_ms, (await second[0]).waited_ms
        assert gate.began == [("a", "b")]
        assert alone > 990 and alone - with_it > 40

    tried(test)


def test_who_waited_behind_a_pass_need_not_wait_for_others_too() -> None:
    async def test() -> None:
        gate = Gate()
        lane = Names(in_threads(gate.batch, 1), 1, queue_limit=50, max_batch=2, gather_s=1.0)
        callers = ask(lane, "ab")
        await so(lambda: gate.inside == 1)
        callers += ask(lane, "c")
        await asyncio.sleep(1.1)
        opened_s = time.monotonic()
        gate.open()
        assert await said(callers) == "ABC"
        assert time.monotonic() - opened_s < 1.0
        assert gate.began == [("a", "b"), ("c",)]

    tried(test)


def test_who_leaves_while_a_batch_gathers_is_not_in_it() -> None:
    async def test() -> None:
        gate = Gate()
        gate.open()
        lane = Names(in_threads(gate.batch, 1), 1, queue_limit=50, max_batch=4, gather_s=0.5)
        callers = ask(lane, "abc")
        await asyncio.sleep(0.01)
        await cancelled(callers.pop(1))
        with pytest.raises(DeadlineExceeded):
            await lane.run("late", time.monotonic() + 0.02)
        assert await said(callers) == "AC"
        for caller in ask(lane, "de"):
            await asyncio.sleep(0.01)
            await cancelled(caller)
        await asyncio.sleep(0.6)
        assert gate.began == [("a", "c")]

    tried(test)


def test_who_leaves_a_batch_that_runs_takes_nothing_from_the_others() -> None:
    async def test() -> None:
        gate = Gate()
        lane = Names(in_threads(gate.batch, 1), 1, queue_limit=50, max_batch=4, gather_s=0.05)
        callers = ask(lane, "abcd")
        await so(lambda: gate.inside == 1)
        assert gate.began == [("a", "b", "c", "d")]
        await cancelled(callers.pop(2))
        gate.open()
        assert await said(callers) == "ABD"
        assert await said(ask(lane, "efg")) == "EFG"

    tried(test)


def test_what_a_pass_raises_comes_to_all_that_were_in_it_and_to_no_others() -> None:
    def picky(names: Sequence[str]) -> list[str]:
        if "x" in names:
            raise UnreadablePicture("damaged")
        return [name.upper() for name in names]

    async def test() -> None:
        lane = Names(in_threads(picky, 1), 1, queue_limit=50, max_batch=2, gather_s=0.05)
        outcomes = await asyncio.gather(*ask(lane, "axbc"), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [
            UnreadablePicture,
            UnreadablePicture,
            TimedResult,
            TimedResult,
        ]
        assert await said(ask(lane, "d")) == "D"

    tried(test)
