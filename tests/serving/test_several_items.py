"""Several items of one caller: a queue of any length takes them all, and nothing is computed for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import DeadlineExceeded, Overloaded, UnreadablePicture
from app.serving.queue import WorkQueue
from tests.serving.test_fairness import Names, Turns, send
from tests.serving.test_queue import cancelled, in_time, so, tried


@settings(max_examples=60)
@given(
    items=st.integers(0, 12),
    queue_limit=st.integers(0, 12),
    max_passes=st.integers(1, 3),
    max_batch=st.integers(1, 4),
    per_user=st.integers(1, 3),
)
def test_a_queue_of_any_length_takes_all_of_them(
    items: int, queue_limit: int, max_passes: int, max_batch: int, per_user: int
) -> None:
    async def test() -> None:
        most = 0

        async def work(names: Sequence[str]) -> list[str]:
            nonlocal most
            most = max(most, queue.waiting)
            await asyncio.sleep(0)
            return [name.upper() for name in names]

        queue = Names(work, max_passes, queue_limit, max_batch, max_passes_per_user=min(per_user, max_passes))
        names = [f"item {number}" for number in range(items)]
        queue.admit(in_time(), "user", items=max(1, items))
        ran = await queue.run_all(names, in_time(), "user")
        assert [one.result for one in ran] == [name.upper() for name in names]
        assert most <= queue_limit + max_passes and queue.waiting == 0

    tried(test)


@pytest.mark.parametrize("queue_limit", [0, 3, 100])
def test_when_the_caller_is_gone_no_further_item_is_begun(queue_limit: int) -> None:
    async def test() -> None:
        turns = Turns()
        queue = Names(turns.work, 1, queue_limit)
        caller = asyncio.create_task(queue.run_all(["gone"] * 8, in_time(), "gone"))
        turns.end(2)
        await so(lambda: len(turns.order) == 3)
        await cancelled(caller)
        assert queue.waiting == 0
        turns.end(100)
        (other,) = send(queue, "other", 1)
        await other
        assert turns.order == ["gone"] * 3 + ["other"] and turns.cancelled == ["gone"]

    tried(test)


def test_when_one_fails_the_others_are_dropped() -> None:
    async def test() -> None:
        begun: list[str] = []

        async def work(names: Sequence[str]) -> list[str]:
            begun.extend(names)
            await asyncio.sleep(0)
            if "bad" in names:
                raise UnreadablePicture("damaged")
            return list(names)

        queue = Names(work, 1, queue_limit=2)
        with pytest.raises(UnreadablePicture):
            await queue.run_all(["good", "bad", *["late"] * 9], in_time())
        assert queue.waiting == 0 and begun.count("late") <= 3

    tried(test)


def test_what_does_not_begin_in_time_ends_them_all() -> None:
    async def test() -> None:
        turns = Turns()
        queue = Names(turns.work, 1, queue_limit=3)
        with pytest.raises(DeadlineExceeded):
            await queue.run_all(["slow"] * 8, asyncio.get_running_loop().time() + 0.05)
        assert queue.waiting == 0 and turns.order == ["slow"]
        turns.end(9)

    tried(test)


def test_they_leave_room_for_the_time_of_all_but_need_one_place() -> None:
    async def test() -> None:
        turns = Turns()
        queue: Names = WorkQueue(turns.work, 1, queue_limit=1)
        turns.end(1)
        (first,) = send(queue, "first", 1)
        usual_s = (await first).ran_ms / 1e3
        queue.admit(in_time(), "many", items=1000)
        (running,) = send(queue, "other", 1)
        await so(lambda: len(turns.order) == 2)
        queue.admit(in_time(), "many", items=8)
        with pytest.raises(Overloaded):
            queue.admit(in_time() - 59 + 3 * usual_s, "many", items=10**9)
        turns.end(1)
        await running

    tried(test)
