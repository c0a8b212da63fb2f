"""Lanes: never more at once than their width, first come first served, nothing computed for nobody."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import pytest

from app.errors import DeadlineExceeded, UnreadablePicture
from app.serving.queue import WorkQueue, in_threads, run_calls
from tests.support.waiting import PATIENCE_S

Calls = WorkQueue[Callable[[], Any], Any]


class Gate:
    """Work that takes until it is let go, and counts how many do it at the same time."""

    def __init__(self) -> None:
        self._open, self._lock = threading.Event(), threading.Lock()
        self.inside = self.most = 0
        self.began: list[object] = []

    def work(self, name: object = None) -> object:
        """Runs in a lane's thread. Returns `name`."""
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.began.append(name)
        assert self._open.wait(PATIENCE_S)
        with self._lock:
            self.inside -= 1
        return name

    def batch(self, names: Sequence[str]) -> list[str]:
        """The same for the items of a pass, which count as one. Returns the names in capitals."""
        self.work(tuple(names))
        return [name.upper() for name in names]

    def open(self) -> None:
        """Let all go, now and later."""
        self._open.set()


def calls_queue(threads: int, queue_limit: int) -> Calls:
    """A queue of function calls, which run in so many threads."""
    return Calls(in_threads(run_calls, threads), threads, queue_limit)


def in_time() -> float:
    """A deadline that a test does not come to."""
    return time.monotonic() + PATIENCE_S


def call(lane: Calls, work: Callable[..., Any], *arguments: Any) -> asyncio.Task[Any]:
    """A caller who waits for the work."""
    return asyncio.create_task(lane.run(partial(work, *arguments), in_time()))


def tried(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine; a lane that hangs fails it."""
    asyncio.run(asyncio.wait_for(test(), 3 * PATIENCE_S))


async def so(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    came = time.monotonic()
    while not condition():
        assert time.monotonic() - came < PATIENCE_S, "this did not come about"
        await asyncio.sleep(0.002)


async def cancelled(caller: asyncio.Task[Any]) -> None:
    """Cancel a caller and see it off."""
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def is_free(lane: Calls, width: int) -> bool:
    """Whether the whole width can be taken at once: no turn was lost, and none was given twice."""
    gate = Gate()
    calls = [call(lane, gate.work, name) for name in range(width + 1)]
    await so(lambda: gate.inside == width)
    await asyncio.sleep(0.02)
    crowded = gate.inside > width
    gate.open()
    return [ran.result for ran in await asyncio.gather(*calls)] == list(range(width + 1)) and not crowded


@pytest.mark.parametrize("width", [1, 2, 5])
def test_as_many_as_the_width_run_at_once_and_never_more(width: int) -> None:
    async def test() -> None:
        lane, gate = calls_queue(width, queue_limit=50), Gate()
        calls = [call(lane, gate.work, name) for name in range(30)]
        await so(lambda: gate.inside == width)
        gate.open()
        assert [ran.result for ran in await asyncio.gather(*calls)] == list(range(30))
        assert gate.most == width

    tried(test)


def test_work_runs_beside_the_event_loop_and_is_timed() -> None:
    async def test() -> None:
        lane, gate = calls_queue(1, 5), Gate()
        first, second = call(lane, gate.work), call(lane, threading.current_thread)
        await so(lambda: gate.inside == 1)
        await asyncio.sleep(0.3)  # the loop goes on
        gate.open()
        ran, waited = await first, await second
        assert waited.result is not threading.current_thread()
        assert ran.ran_ms > 290 and waited.waited_ms > 290
        assert waited.waited_ms >= ran.ran_ms - 1 and waited.ran_ms < waited.waited_ms

    tried(test)


def test_first_come_is_first_served() -> None:
    async def test() -> None:
        lane, gate = calls_queue(1, 50), Gate()
        calls = []
        for name in range(20):
            calls.append(call(lane, gate.work, name))
            await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(*calls)
        assert gate.began == list(range(20))

    tried(test)


def test_what_the_work_raises_comes_through_and_frees_the_lane() -> None:
    def fail() -> None:
        raise UnreadablePicture("damaged")

    async def test() -> None:
        lane = calls_queue(2, queue_limit=5)
        outcomes = await asyncio.gather(*(call(lane, fail) for _ in range(6)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [UnreadablePicture] * 6
        assert lane.expected_wait_s() == 0
        assert await is_free(lane, 2)

    tried(test)


def test_a_wait_that_comes_to_its_deadline_ends_there_and_costs_nothing() -> None:
    async def test() -> None:
        lane, gate = calls_queue(1, queue_limit=5), Gate()
        running, patient = call(lane, gate.work, "first"), call(lane, gate.work, "patient")
        await so(lambda: gate.inside == 1)
        came = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await lane.run(partial(gate.work, "late"), came + 0.05)
        assert time.monotonic() - came >= 0.05 and not gate.began[1:]
        gate.open()
        assert [(await caller).result for caller in (running, patient)] == ["first", "patient"]
        assert gate.began == ["first", "patient"]
        assert await is_free(lane, 1)

    tried(test)


def test_a_deadline_does_not_cut_off_what_runs() -> None:
    async def test() -> None:
        lane, gate = calls_queue(1, queue_limit=5), Gate()
        running = asyncio.create_task(lane.run(partial(gate.work, "done"), time.monotonic() + 1))
        await so(lambda: gate.inside == 1)
        await asyncio.sleep(1.1)
        gate.open()
        assert (await running).result == "done"

    tried(test)


def test_a_caller_that_leaves_the_queue_leaves_no_trace() -> None:
    async def test() -> None:
        lane, gate = calls_queue(1, queue_limit=2), Gate()
        running = call(lane, gate.work, "first")
        await so(lambda: gate.inside == 1)
        for _ in range(5):  # more than the queue holds
            lane.admit(in_time())
            waiting = call(lane, gate.work, "left")
            await asyncio.sleep(0.005)
            await cancelled(waiting)
        stayed = call(lane, gate.work, "stayed")
        await asyncio.sleep(0.005)
        gate.open()
        await asyncio.gather(running, stayed)
        assert gate.began == ["first", "stayed"]
        assert await is_free(lane, 1)

    tried(test)


def test_when_half_of_a_queue_leaves_the_other_half_is_served_and_nothing_else_is_done() -> None:
    async def test() -> None:
        lane, gate = calls_queue(2, queue_limit=50), Gate()
        calls = [call(lane, gate.work, name) for name in range(42)]
        await so(lambda: gate.inside == 2)
        for left in calls[2::2]:
            await cancelled(left)
        gate.open()
        stayed = [name for name in range(42) if name < 2 or name % 2]
        assert [(await calls[name]).result for name in stayed] == stayed
        assert sorted(gate.began, key=str) == sorted(stayed, key=str)
        assert await is_free(lane, 2)

    tried(test)


def test_a_caller_that_leaves_its_work_does_not_make_the_lane_wider() -> None:
    async def test() -> None:
        lane, gate = calls_queue(1, queue_limit=5), Gate()
        left = call(lane, gate.work, "left")
        await so(lambda: gate.inside == 1)
        await cancelled(left)
        nexts = [call(lane, gate.work, name) for name in range(3)]
        await asyncio.sleep(0.05)
        assert gate.began == ["left"]
        gate.open()
        await asyncio.gather(*nexts)
        assert gate.most == 1
        assert await is_free(lane, 1)

    tried(test)


def test_callers_that_come_and_go_at_random_never_crowd_or_block_the_lane() -> None:
    async def test() -> None:
        lane, gate = calls_queue(3, queue_limit=1000), Gate()
        gate.open()
        calls: list[asyncio.Task[Any]] = []
        for name in range(300):
            calls.append(call(lane, gate.work, name))
            if name % 7 == 0:
                await asyncio.sleep(0.001)
            if name % 3 == 0:
                calls[name // 2].cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        left = sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        assert 0 < left < 150 and left == sum(isinstance(outcome, BaseException) for outcome in outcomes)
        assert gate.most <= 3
        assert await is_free(lane, 3)

    tried(test)
