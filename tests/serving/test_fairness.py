"""Queues are fair: whoever sends much waits for it themselves."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import Overloaded
from app.serving.queue import TimedResult, WorkQueue
from tests.serving.test_queue import in_time, so, tried

Names = WorkQueue[str, str]


class Turns:
    """Work that ends when it is told to, item by item, and remembers in which order the items came."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.cancelled: list[str] = []
        self._may_end = asyncio.Semaphore(0)

    async def work(self, names: Sequence[str]) -> list[str]:
        """The work of a queue."""
        self.order += names
        try:
            await self._may_end.acquire()
        except asyncio.CancelledError:
            self.cancelled += names
            raise
        return list(names)

    def end(self, passes: int) -> None:
        """Let so many passes end."""
        for _ in range(passes):
            self._may_end.release()


def send(queue: Names, user: str, items: int) -> list[asyncio.Task[TimedResult[str]]]:
    """Items of a user, named after the user."""
    return [asyncio.create_task(queue.run(user, in_time(), user)) for _ in range(items)]


def test_users_have_their_turns_one_after_the_other() -> None:
    async def test() -> None:
        turns = Turns()
        queue = Names(turns.work, 1, queue_limit=100)
        greedy = send(queue, "greedy", 20)
        await so(lambda: len(turns.order) == 1)
        modest = send(queue, "modest", 2)
        late = send(queue, "late", 1)
        await so(lambda: queue.waiting == 22)
        turns.end(23)
        await asyncio.gather(*greedy, *modest, *late)
        assert turns.order[:7] == ["greedy", "greedy", "modest", "late", "greedy", "modest", "greedy"]

    tried(test)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40), st.integers(1, 4), st.integers(1, 3))
def test_nobody_is_overtaken_twice_by_the_same_user(users: list[str], max_batch: int, max_passes: int) -> None:
    """While items of a user wait, nobody else has two turns more than they have."""

    async def test() -> None:
        turns = Turns()
        queue = Names(turns.work, max_passes, queue_limit=100, max_batch=max_batch)
        first = send(queue, "first", max_passes)  # so that all others wait
        await so(lambda: len(turns.order) == max_passes)
        calls = [call for user in users for call in send(queue, user, 1)]
        await so(lambda: queue.waiting == len(users))
        turns.end(max_passes + len(users))
        await asyncio.gather(*first, *calls)
        order, left = turns.order[max_passes:], Counter(users)
        assert Counter(order) == left
        had: Counter[str] = Counter()
        for user in order:
            waiting = [other for other in left if left[other] > 0]
            assert all(had[user] <= had[other] for other in waiting)
            had[user] += 1
            left[user] -= 1

    tried(test)


def test_a_full_queue_drops_the_newest_of_who_has_most() -> None:
    async def test() -> None:
        turns = Turns()
        queue = Names(turns.work, 1, queue_limit=6)
        greedy = send(queue, "greedy", 7)
        await so(lambda: queue.waiting == 6)
        with pytest.raises(Overloaded):
            queue.admit(in_time(), "greedy")
        for n in range(3):
            queue.admit(in_time(), "modest")
            modest = send(queue, "modest", 1)
            await so(lambda: sum(call.done() for call in greedy) == n + 1)  # noqa: B023
            assert queue.waiting == 6 and not modest[0].done()
        with pytest.raises(Overloaded):
            queue.admit(in_time(), "modest")  # they have as many as the other now
        queue.admit(in_time(), "third")
        refused = [call for call in greedy if call.done()]
        assert all(isinstance(call.exception(), Overloaded) for call in refused) and refused == greedy[4:]
        turns.end(7)
        await so(lambda: len(turns.order) == 7)

    tried(test)


def test_an_overflow_of_one_user_is_their_own() -> None:
    async def test() -> None:
        turns = Turns()
        queue = Names(turns.work, 1, queue_limit=2)
        calls = send(queue, "greedy", 9)
        await so(lambda: sum(call.done() for call in calls) == 6)
        assert queue.waiting == 2
        turns.end(3)
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(one, Overloaded) for one in ended] == [False] * 3 + [True] * 6

    tried(test)


def test_the_wait_that_is_expected_is_that_of_the_user() -> None:
    async def test() -> None:
        turns = Turns()
        queue = Names(turns.work, 1, queue_limit=100)
        (first,) = send(queue, "greedy", 1)
        await asyncio.sleep(0.2)
        turns.end(1)
        usual_s = (await first).ran_ms / 1e3
        greedy = send(queue, "greedy", 11)
        await so(lambda: queue.waiting == 10)
        assert queue.expected_wait_s("greedy") == pytest.approx(11 * usual_s)
        assert queue.expected_wait_s("modest") == pytest.approx(2 * usual_s)  # what runs, and one turn of the other
        assert queue.expected_wait_s("modest", ahead={"modest": 1}) == pytest.approx(4 * usual_s)
        queue.admit(time.monotonic() + 4 * usual_s, "modest")
        with pytest.raises(Overloaded):
            queue.admit(time.monotonic() + 4 * usual_s, "greedy")
        turns.end(11)
        await asyncio.gather(*greedy)

    tried(test)


def test_who_may_have_few_passes_is_expected_to_wait_for_them() -> None:
    async def test() -> None:
        turns = Turns()
        queue = Names(turns.work, 3, queue_limit=100, max_passes_per_user=1)
        (first,) = send(queue, "greedy", 1)
        await asyncio.sleep(0.2)
        turns.end(1)
        usual_s = (await first).ran_ms / 1e3
        greedy = send(queue, "greedy", 4)
        await so(lambda: queue.waiting == 3)
        assert queue.expected_wait_s("greedy") == pytest.approx(4 * usual_s)
        assert queue.expected_wait_s("modest") == 0
        turns.end(4)
        await asyncio.gather(*greedy)

    tried(test)


def test_nobody_has_more_passes_than_allowed_and_what_is_free_is_used_by_others() -> None:
    async def test() -> None:
        turns = Turns()
        queue = Names(turns.work, 3, queue_limit=100, max_passes_per_user=2)
        greedy = send(queue, "greedy", 9)
        await so(lambda: len(turns.order) == 2 and queue.waiting == 7)
        modest = send(queue, "modest", 1)
        await so(lambda: turns.order == ["greedy", "greedy", "modest"])
        turns.end(10)
        await asyncio.gather(*greedy, *modest)

    tried(test)


def test_a_pass_that_nobody_waits_for_is_cancelled_and_its_place_is_free() -> None:
    async def test() -> None:
        turns = Turns()
        queue = Names(turns.work, 1, queue_limit=100, max_batch=2)
        (alone,) = send(queue, "alone", 1)
        await so(lambda: turns.order == ["alone"])
        pair = send(queue, "pair", 2)
        await so(lambda: queue.waiting == 2)
        alone.cancel()
        await so(lambda: turns.cancelled == ["alone"] and len(turns.order) == 3)
        pair[0].cancel()
        await asyncio.sleep(0.02)
        assert turns.cancelled == ["alone"]  # one of them still waits
        turns.end(1)
        assert (await pair[1]).result == "pair"
        results = await asyncio.gather(alone, pair[0], return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)

    tried(test)
