"""Lanes: never more at once than their width, first come first served, and a clear refusal when they are full."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from app.errors import DeadlineExceeded, Overloaded, UnreadablePicture
from app.inference.scheduler import Lane

PATIENCE_S = 10.0


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

    def open(self) -> None:
        """Let all go, now and later."""
        self._open.set()


def tried(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine; a lane that hangs fails it."""
    asyncio.run(asyncio.wait_for(test(), 3 * PATIENCE_S))


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    came = time.monotonic()
    while not condition():
        assert time.monotonic() - came < PATIENCE_S, "this did not come about"
        await asyncio.sleep(0.002)


async def is_free(lane: Lane, width: int) -> bool:
    """Whether the whole width can be taken at once: no turn was lost, and none was given twice."""
    gate = Gate()
    calls = [asyncio.create_task(lane.run(gate.work, name)) for name in range(width + 1)]
    await until(lambda: gate.inside == width)
    await asyncio.sleep(0.02)
    crowded = gate.inside > width
    gate.open()
    return (
        sorted(str(ran.result) for ran in await asyncio.gather(*calls)) == [str(i) for i in range(width + 1)]
        and not crowded
    )


@pytest.mark.parametrize("width", [1, 2, 5])
def test_as_many_as_the_width_run_at_once_and_never_more(width: int) -> None:
    async def test() -> None:
        lane, gate = Lane(width, queue_limit=50, deadline_s=PATIENCE_S), Gate()
        calls = [asyncio.create_task(lane.run(gate.work, name)) for name in range(30)]
        await until(lambda: gate.inside == width)
        gate.open()
        assert [ran.result for ran in await asyncio.gather(*calls)] == list(range(30))
        assert gate.most == width

    tried(test)


def test_work_runs_beside_the_event_loop_and_is_timed() -> None:
    async def test() -> None:
        lane, gate = Lane(1, 5, PATIENCE_S), Gate()
        first = asyncio.create_task(lane.run(gate.work))
        second = asyncio.create_task(lane.run(threading.current_thread))
        await asyncio.sleep(0.1)  # the loop goes on
        gate.open()
        ran, waited = await first, await second
        assert waited.result is not threading.current_thread()
        assert ran.waited_ms < ran.ran_ms and ran.ran_ms > 90
        assert waited.ran_ms < waited.waited_ms and waited.waited_ms > 90

    tried(test)


def test_first_come_is_first_served() -> None:
    async def test() -> None:
        lane, gate = Lane(1, 50, PATIENCE_S), Gate()
        calls = []
        for name in range(20):
            calls.append(asyncio.create_task(lane.run(gate.work, name)))
            await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(*calls)
        assert gate.began == list(range(20))

    tried(test)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    async def test() -> None:
        lane, gate = Lane(1, queue_limit=8, deadline_s=100.0), Gate()
        await lane.run(time.sleep, 0.5)
        usual_s = 0.5
        calls = [asyncio.create_task(lane.run(gate.work, name)) for name in range(9)]
        await until(lambda: gate.inside == 1)
        came = time.monotonic()
        with pytest.raises(Overloaded) as refusal:
            await lane.run(gate.work, "too many")
        assert time.monotonic() - came < 0.1
        # One that runs and eight that wait are ahead, each for half a second.
        assert 9 * usual_s <= refusal.value.retry_after_s <= 9 * usual_s * 1.5
        assert str(refusal.value.retry_after_s) in str(refusal.value)
        gate.open()
        await asyncio.gather(*calls)
        assert "too many" not in gate.began
        assert await is_free(lane, 1)

    tried(test)


def test_without_a_queue_there_is_room_for_those_who_run() -> None:
    async def test() -> None:
        lane, gate = Lane(2, queue_limit=0, deadline_s=PATIENCE_S), Gate()
        calls = [asyncio.create_task(lane.run(gate.work, name)) for name in range(2)]
        await until(lambda: gate.inside == 2)
        with pytest.raises(Overloaded) as refusal:
            await lane.run(gate.work)
        assert refusal.value.retry_after_s == 1
        gate.open()
        await asyncio.gather(*calls)
        assert (await lane.run(gate.work, "now")).result == "now"

    tried(test)


def test_a_wait_that_must_pass_the_deadline_is_refused_before_it() -> None:
    async def test() -> None:
        lane, gate = Lane(1, queue_limit=50, deadline_s=0.3), Gate()
        await lane.run(time.sleep, 0.4)
        running = asyncio.create_task(lane.run(gate.work))
        await until(lambda: gate.inside == 1)
        assert lane.expected_wait_s() > 0.3
        with pytest.raises(Overloaded):
            await lane.run(gate.work)
        gate.open()
        await running

    tried(test)


def test_a_wait_that_comes_to_the_deadline_ends_there() -> None:
    async def test() -> None:
        lane, gate = Lane(1, queue_limit=5, deadline_s=0.05), Gate()
        running = asyncio.create_task(lane.run(gate.work, "first"))
        await until(lambda: gate.inside == 1)
        with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
            await lane.run(gate.work, "second")
        gate.open()
        assert (await running).result == "first"  # what runs is not cut off
        assert gate.began == ["first"]
        assert lane.expected_wait_s() == 0

    tried(test)


def test_what_the_work_raises_comes_through_and_frees_the_lane() -> None:
    def fail() -> None:
        raise UnreadablePicture("damaged")

    async def test() -> None:
        lane = Lane(2, queue_limit=5, deadline_s=PATIENCE_S)
        outcomes = await asyncio.gather(*(lane.run(fail) for _ in range(6)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [UnreadablePicture] * 6
        assert lane.expected_wait_s() == 0
        assert await is_free(lane, 2)

    tried(test)


async def cancelled(call: asyncio.Task[Any]) -> None:
    """Cancel a caller and see it off."""
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


def test_a_caller_that_leaves_the_queue_leaves_no_trace() -> None:
    async def test() -> None:
        lane, gate = Lane(1, queue_limit=2, deadline_s=PATIENCE_S), Gate()
        running = asyncio.create_task(lane.run(gate.work, "first"))
        await until(lambda: gate.inside == 1)
        for _ in range(5):  # more than the queue holds
            waiting = asyncio.create_task(lane.run(gate.work, "left"))
            await asyncio.sleep(0.005)
            await cancelled(waiting)
        stayed = asyncio.create_task(lane.run(gate.work, "stayed"))
        await asyncio.sleep(0.005)
        gate.open()
        await asyncio.gather(running, stayed)
        assert gate.began == ["first", "stayed"]
        assert await is_free(lane, 1)

    tried(test)


def test_a_caller_that_leaves_its_work_does_not_make_the_lane_wider() -> None:
    async def test() -> None:
        lane, gate = Lane(1, queue_limit=5, deadline_s=PATIENCE_S), Gate()
        left = asyncio.create_task(lane.run(gate.work, "left"))
        await until(lambda: gate.inside == 1)
        await cancelled(left)
        nexts = [asyncio.create_task(lane.run(gate.work, name)) for name in range(3)]
        await asyncio.sleep(0.05)
        assert gate.began == ["left"]
        gate.open()
        await asyncio.gather(*nexts)
        assert gate.most == 1
        assert await is_free(lane, 1)

    tried(test)


def test_callers_that_come_and_go_at_random_never_crowd_or_block_the_lane() -> None:
    async def test() -> None:
        lane, gate = Lane(3, queue_limit=1000, deadline_s=PATIENCE_S), Gate()
        gate.open()
        calls: list[asyncio.Task[Any]] = []
        for name in range(300):
            calls.append(asyncio.create_task(lane.run(gate.work, name)))
            if name % 7 == 0:
                await asyncio.sleep(0.001)
            if name % 3 == 0:
                calls[name // 2].cancel()
        outcomes: list[Awaitable[Any] | BaseException] = await asyncio.gather(*calls, return_exceptions=True)
        left = sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        assert 0 < left < 150 and left == sum(isinstance(outcome, BaseException) for outcome in outcomes)
        assert gate.most <= 3
        assert await is_free(lane, 3)

    tried(test)
