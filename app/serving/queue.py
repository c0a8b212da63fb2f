"""Bounded work queues. The work runs in threads, not on the event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import Generic, TypeVar

import anyio
import anyio.to_thread

from app.errors import DeadlineExceeded, Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")
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
    answer: asyncio.Future[TimedResult[Result]]
    enqueued_s: float = field(default_factory=time.monotonic)


class WorkQueue(Generic[Item, Result]):
    """Runs passes of work over queued items, in the order in which they came.

    A pass is one call of `work`, in a thread, with up to `max_batch` items. At most `max_passes` run at once. At most
    `queue_limit` items wait. If `max_batch` is above 1, a pass that is not full waits up to `gather_s` for more items.
    An item is dropped from the queue without cost when its caller is cancelled or its deadline passes; a running pass
    is not interrupted. Deadlines are times of `time.monotonic`, in seconds.

    Items that would miss their deadline are refused, judged by the duration of recent passes. An idle queue refuses
    nobody, so that the passes of its next items correct an estimate that slow ones have raised.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        max_passes: int,
        queue_limit: int,
        max_batch: int = 1,
        gather_s: float = 0.0,
    ) -> None:
        self._work, self._max_passes, self._max_batch = work, max_passes, max_batch
        self._queue_limit, self._gather_s = queue_limit, gather_s
        self._queue: deque[_Entry[Item, Result]] = deque()
        self._passes: set[asyncio.Task[None]] = set()
        self._threads = anyio.CapacityLimiter(max_passes)
        self._recent_s: deque[float] = deque(maxlen=_RECENT_PASSES)  # durations of the newest passes

    @property
    def waiting(self) -> int:
        """The number of waiting items."""
        return len(self._queue)

    def expected_wait_s(self, ahead: int = 0) -> float:
        """The expected wait of an item behind `ahead` others, from the usual duration of a pass."""
        before = len(self._passes) + (len(self._queue) + ahead) // self._max_batch
        return max(0, before - self._max_passes + 1) * self._usual_pass_s() / self._max_passes

    def admit(self, deadline: float, ahead: int = 0) -> None:
        """Raises Overloaded if the queue is full, or if an item behind `ahead` others would miss its deadline."""
        before = len(self._passes) + len(self._queue) + ahead
        expected_s = self.expected_wait_s(ahead)
        full = before >= self._max_passes + self._queue_limit
        late = time.monotonic() + expected_s + self._usual_pass_s() > deadline
        if full or (late and before):
            raise Overloaded(max(1, math.ceil(expected_s)))

    def _usual_pass_s(self) -> float:
        """The median duration of the recent passes; 0 before the first one."""
        return median_low(self._recent_s) if self._recent_s else 0.0

    async def run(self, item: Item, deadline: float) -> TimedResult[Result]:
        """Wait for an item's turn and return its result.

        Raises DeadlineExceeded if its pass does not start in time, and whatever the work raises.
        """
        loop = asyncio.get_running_loop()
        entry: _Entry[Item, Result] = _Entry(item, loop.create_future())
        self._queue.append(entry)
        self._start_passes()
        expiry = loop.call_later(deadline - time.monotonic(), self._expire, entry)
        try:
            return await entry.answer
        finally:
            expiry.cancel()
            if entry in self._queue:
                self._queue.remove(entry)

    def _expire(self, entry: _Entry[Item, Result]) -> None:
        if entry in self._queue and not entry.answer.done():
            self._queue.remove(entry)
            entry.answer.set_exception(
                DeadlineExceeded("The request did not leave the queue within the time limit; try again later.")
            )

    def _start_passes(self) -> None:
        while self._queue and len(self._passes) < self._max_passes:
            first = self._queue[0]
            gathering_s = self._gather_s - (time.monotonic() - first.enqueued_s)
            if len(self._queue) < self._max_batch and gathering_s > 0:
                asyncio.get_running_loop().call_later(gathering_s, self._start_passes)
                return
            batch = [self._queue.popleft() for _ in range(min(self._max_batch, len(self._queue)))]
            # In its own task: a thread cannot be stopped, so its place stays taken even if the caller is cancelled.
            running = asyncio.create_task(self._run_pass(batch))
            self._passes.add(running)
            running.add_done_callback(self._pass_ended)

    def _pass_ended(self, task: asyncio.Task[None]) -> None:
        self._passes.discard(task)
        self._start_passes()

    async def _run_pass(self, batch: list[_Entry[Item, Result]]) -> None:
        began = time.monotonic()
        items = [entry.item for entry in batch]
        call = asyncio.ensure_future(anyio.to_thread.run_sync(self._work, items, limiter=self._threads))
        await asyncio.wait([call])
        ran_s = time.monotonic() - began
        callers = [entry for entry in batch if not entry.answer.done()]  # without the cancelled ones
        if (error := call.exception()) is not None:
            for entry in callers:
                entry.answer.set_exception(error)
            return
        self._recent_s.append(ran_s)
        results = dict(zip(batch, call.result(), strict=True))
        for entry in callers:
            entry.answer.set_result(TimedResult(results[entry], (began - entry.enqueued_s) * 1e3, ran_s * 1e3))


def run_calls(items: Sequence[Callable[[], Result]]) -> list[Result]:
    """The work of a queue whose items are function calls."""
    return [call() for call in items]
