"""Bounded work queues, fair between their users. The work runs in threads or processes, not on the event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread

from app.errors import DeadlineExceeded, Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Sequence[Item]], Coroutine[Any, Any, Sequence[Result]]]
_RECENT_PASSES = 7  # the expected duration of a pass is the median of so many, which a few slow ones do not move


@dataclass(frozen=True)
class TimedResult(Generic[Result]):
    """The result of an item, the time that it waited, and the duration of the pass that it was in."""

    result: Result
    waited_ms: float
    ran_ms: float


@dataclass(eq=False)
class _Entry(Generic[Item, Result]):
    item: Item
    user: str
    answer: asyncio.Future[TimedResult[Result]]
    enqueued_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, eq=False)
class _Pass(Generic[Item, Result]):
    entries: list[_Entry[Item, Result]]
    began_s: float = field(default_factory=time.monotonic)


class WorkQueue(Generic[Item, Result]):
    """Runs passes of work over queued items: the users in turn, the items of one user in the order in which they came.

    A pass is one call of `work` with up to `max_batch` items. At most `max_passes` run at once, and of them at most
    `max_passes_per_user` with an item of the same user. If `max_batch` is above 1, a pass that is not full waits up to
    `gather_s` for more items. Deadlines are times of `time.monotonic`, in seconds.

    At most `queue_limit` items wait. A user who finds the queue full takes the place of the newest item of the user who
    has the most waiting, unless that is themselves. An item is dropped from the queue without cost when its caller is
    cancelled or its deadline passes. A pass is cancelled when all its callers are; its place is free when `work` ends.

    Items that would miss their deadline are refused, judged by the duration of recent passes. An idle queue refuses
    nobody, so that the passes of its next items correct an estimate that slow ones have raised.
    """

    def __init__(
        self,
        work: Work[Item, Result],
        max_passes: int,
        queue_limit: int,
        max_batch: int = 1,
        gather_s: float = 0.0,
        max_passes_per_user: int | None = None,
    ) -> None:
        self._work, self._max_passes, self._max_batch = work, max_passes, max_batch
        self._queue_limit, self._gather_s = queue_limit, gather_s
        self._max_passes_per_user = max_passes_per_user or max_passes
        self._waiting: OrderedDict[str, deque[_Entry[Item, Result]]] = OrderedDict()  # by user, the next one first
        self._passes: dict[asyncio.Task[Sequence[Result]], _Pass[Item, Result]] = {}
        self._recent_s: deque[float] = deque(maxlen=_RECENT_PASSES)  # durations of the newest passes

    @property
    def waiting(self) -> int:
        """The number of waiting items."""
        return sum(map(len, self._waiting.values()))

    def expected_wait_s(self, user: str = "", ahead: Mapping[str, int] | None = None) -> float:
        """The expected wait of a new item of this user, from the usual duration of a pass.

        `ahead` are the numbers of items, by user, that will be here before it.
        """
        counts = self._counts(ahead)
        own = counts[user]
        others = sum(min(count, own + 1) for other, count in counts.items() if other != user)  # they have their turns
        before = len(self._passes) + (own + others) // self._max_batch
        own_before = self._running()[user] + own // self._max_batch
        rounds = max(0, before - self._max_passes + 1) / self._max_passes
        own_rounds = max(0, own_before - self._max_passes_per_user + 1) / self._max_passes_per_user
        return max(rounds, own_rounds) * self._usual_pass_s()

    def admit(self, deadline: float, user: str = "", ahead: Mapping[str, int] | None = None, items: int = 1) -> None:
        """Raises Overloaded if there is no place for a new item of this user, or if it would miss its deadline.

        With `items`, the item is the last of so many for `run_all`, which need one place, but the time of all.
        """
        counts = self._counts(ahead)
        expected_s = self.expected_wait_s(user, Counter(ahead or {}) + Counter({user: items - 1}))
        before = len(self._passes) + counts.total()
        full = before >= self._max_passes + self._queue_limit and not self._displaces(user, counts)
        late = time.monotonic() + expected_s + self._usual_pass_s() > deadline
        if full or (late and before):
            raise Overloaded(max(1, math.ceil(expected_s)))

    async def run(self, item: Item, deadline: float, user: str = "") -> TimedResult[Result]:
        """Wait for an item's turn and return its result.

        Raises DeadlineExceeded if its pass does not start in time, Overloaded if another user takes its place in a full
        queue, and whatever the work raises.
        """
        loop = asyncio.get_running_loop()
        entry: _Entry[Item, Result] = _Entry(item, user, loop.create_future())
        self._waiting.setdefault(user, deque()).append(entry)
        self._start_passes()
        self._drop_surplus()
        expiry = loop.call_later(deadline - time.monotonic(), self._expire, entry)
        try:
            return await entry.answer
        finally:
            expiry.cancel()
            self._leave(entry)

    async def run_all(self, items: Sequence[Item], deadline: float, user: str = "") -> list[TimedResult[Result]]:
        """Wait for the turns of all these items, and return their results in the same order.

        They enter the queue as it has places for them, or one by one, so it takes any number of items whatever its
        limit. If one of them fails or the caller is cancelled, the others are dropped. Raises what `run` raises.
        """
        calls: list[asyncio.Task[TimedResult[Result]]] = []
        try:
            for item in items:
                while (running := [call for call in calls if not call.done()]) and not self._has_place:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for call in calls:
                    if call.done():
                        call.result()  # raises here what one of them raised
                calls.append(asyncio.create_task(self.run(item, deadline, user)))
                await asyncio.sleep(0)  # until it has entered
            return await asyncio.gather(*calls)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    @property
    def _has_place(self) -> bool:
        """Whether one more item would wait or run without taking another one's place."""
        return self.waiting + len(self._passes) < self._max_passes + self._queue_limit

    def _usual_pass_s(self) -> float:
        """The median duration of the recent passes; 0 before the first one."""
        return median_low(self._recent_s) if self._recent_s else 0.0

    def _counts(self, ahead: Mapping[str, int] | None) -> Counter[str]:
        """The numbers of waiting items by user, those that are on their way included."""
        return Counter({user: len(entries) for user, entries in self._waiting.items()}) + Counter(ahead or {})

    def _displaces(self, user: str, counts: Counter[str]) -> bool:
        """Whether a new item of this user takes the place of another user's item in a full queue."""
        most = max(self._waiting, key=lambda other: len(self._waiting[other]), default=user)
        return len(self._waiting.get(most, ())) > counts[user] + 1

    def _drop_surplus(self) -> None:
        while self.waiting + len(self._passes) > self._max_passes + self._queue_limit:
            most = max(self._waiting, key=lambda user: len(self._waiting[user]))
            entry = self._waiting[most][-1]
            expected_s = self.expected_wait_s(most)
            self._remove(entry)
            if not entry.answer.done():
                entry.answer.set_exception(Overloaded(max(1, math.ceil(expected_s))))

    def _expire(self, entry: _Entry[Item, Result]) -> None:
        if self._remove(entry) and not entry.answer.done():
            entry.answer.set_exception(
                DeadlineExceeded("The request did not leave the queue within the time limit; try again later.")
            )

    def _leave(self, entry: _Entry[Item, Result]) -> None:
        """An entry's caller has its answer, or is gone."""
        self._remove(entry)
        for call, running in self._passes.items():
            if entry in running.entries and all(other.answer.cancelled() for other in running.entries):
                call.cancel()

    def _remove(self, entry: _Entry[Item, Result]) -> bool:
        """Take an entry out of the queue. Returns whether it was still waiting."""
        entries = self._waiting.get(entry.user, ())
        if entry not in entries:
            return False
        self._waiting[entry.user].remove(entry)
        if not self._waiting[entry.user]:
            del self._waiting[entry.user]
        return True

    def _next_users(self) -> list[str]:
        """The users with waiting items who may be in one more pass, the next one first."""
        running = self._running()
        return [user for user in self._waiting if running[user] < self._max_passes_per_user]

    def _running(self) -> Counter[str]:
        """The numbers of passes by user."""
        return Counter(user for batch in self._passes.values() for user in {entry.user for entry in batch.entries})

    def _start_passes(self) -> None:
        while len(self._passes) < self._max_passes and (users := self._next_users()):
            gathering_s = self._gather_s - (time.monotonic() - min(self._waiting[user][0].enqueued_s for user in users))
            if gathering_s > 0 and sum(len(self._waiting[user]) for user in users) < self._max_batch:
                asyncio.get_running_loop().call_later(gathering_s, self._start_passes)
                return
            batch = _Pass(self._take(users))
            # In its own task: its place stays taken until the work ends, even if its callers are cancelled.
            call = asyncio.create_task(self._work([entry.item for entry in batch.entries]))
            self._passes[call] = batch
            call.add_done_callback(self._pass_ended)

    def _take(self, users: Sequence[str]) -> list[_Entry[Item, Result]]:
        """Take the items of the next pass out of the queue, one of each user in turn."""
        batch: list[_Entry[Item, Result]] = []
        turns = deque(users)
        while turns and len(batch) < self._max_batch:
            user = turns.popleft()
            entries = self._waiting[user]
            batch.append(entries.popleft())
            if entries:
                turns.append(user)
                self._waiting.move_to_end(user)
            else:
                del self._waiting[user]
        return batch

    def _pass_ended(self, call: asyncio.Task[Sequence[Result]]) -> None:
        ended, now_s = self._passes.pop(call), time.monotonic()
        if not call.cancelled():
            self._answer(ended, call, (now_s - ended.began_s) * 1e3)
        self._start_passes()

    def _answer(self, ended: _Pass[Item, Result], call: asyncio.Task[Sequence[Result]], ran_ms: float) -> None:
        """Give the callers of a pass their results, or the error that it raised. Some of them may be gone."""
        if (error := call.exception()) is not None:
            for entry in ended.entries:
                if not entry.answer.done():
                    entry.answer.set_exception(error)
            return
        self._recent_s.append(ran_ms / 1e3)
        for entry, result in zip(ended.entries, call.result(), strict=True):
            if not entry.answer.done():
                waited_ms = (ended.began_s - entry.enqueued_s) * 1e3
                entry.answer.set_result(TimedResult(result, waited_ms, ran_ms))


def in_threads(work: Callable[[Sequence[Item]], Sequence[Result]], threads: int) -> Work[Item, Result]:
    """The work of a queue as a function that runs in one of so many threads.

    A thread cannot be stopped: a pass that is cancelled lasts until the function has returned.
    """
    limiter = anyio.CapacityLimiter(threads)

    async def run(items: Sequence[Item]) -> Sequence[Result]:
        call = asyncio.ensure_future(anyio.to_thread.run_sync(work, items, limiter=limiter))
        while not call.done():
            try:
                await asyncio.wait([call])
            except asyncio.CancelledError:
                continue
        return call.result()

    return run


def run_calls(items: Sequence[Callable[[], Result]]) -> list[Result]:
    """The work of a queue whose items are function calls."""
    return [call() for call in items]
