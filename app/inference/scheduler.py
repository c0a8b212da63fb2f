"""The bounded queue in front of the engine: work runs in threads, never on the event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, ParamSpec, TypeVar

import anyio.to_thread

from app.errors import DeadlineExceeded, Overloaded

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Ran(Generic[T]):
    """A call's result, how long it waited for its turn and how long it ran, in ms."""

    result: T
    waited_ms: float
    ran_ms: float


class Lane:
    """Runs at most `width` calls at once, each in a thread; up to `queue_limit` more wait for their turn.

    A call that finds the queue full, or an expected wait beyond the deadline, is refused at once.
    """

    def __init__(self, width: int, queue_limit: int, deadline_s: float) -> None:
        self._width, self._queue_limit, self._deadline_s = width, queue_limit, deadline_s
        self._turns, self._threads = asyncio.Semaphore(width), anyio.CapacityLimiter(width)
        self._waiting = self._running = 0
        self._usual_s = 0.0  # a moving average of what one call takes

    def expected_wait_s(self) -> float:
        """When a call that came now would get its turn, judged by what recent calls took."""
        ahead = self._waiting + self._running - self._width + 1
        return max(0, ahead) * self._usual_s / self._width

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Ran[T]:
        """Run `function` in a thread. Raises Overloaded, DeadlineExceeded, and whatever the function raises."""
        expected_s = self.expected_wait_s()
        full = self._turns.locked() and self._waiting >= self._queue_limit
        if full or expected_s > self._deadline_s:
            raise Overloaded(max(1, math.ceil(expected_s)))
        came = time.perf_counter()
        await self._take_turn()
        waited_ms = (time.perf_counter() - came) * 1e3
        # A thread cannot be stopped: a caller that leaves early must not hand its turn on before the thread is done.
        return await asyncio.shield(asyncio.create_task(self._in_thread(partial(function, *args, **kwargs), waited_ms)))

    async def _in_thread(self, call: Callable[[], T], waited_ms: float) -> Ran[T]:
        began = time.perf_counter()
        try:
            result = await anyio.to_thread.run_sync(call, limiter=self._threads)
        finally:
            self._turns.release()
            self._running -= 1
        ran_s = time.perf_counter() - began
        self._usual_s = ran_s if self._usual_s == 0 else 0.9 * self._usual_s + 0.1 * ran_s
        return Ran(result, waited_ms, ran_s * 1e3)

    async def _take_turn(self) -> None:
        self._waiting += 1
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._turns.acquire()
        except TimeoutError as error:
            raise DeadlineExceeded(f"No turn came within {self._deadline_s:g} s; try again later.") from error
        finally:
            self._waiting -= 1
        self._running += 1
