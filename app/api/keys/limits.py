"""Limits of a key: how many requests a minute, and how many at once.

The rate is the generic cell rate algorithm (ITU-T I.371): one number a key, the time at which its allowance is used up.
Up to ten seconds' worth may come at once. Replicas share the count through Redis; each keeps its own beside it, which
still holds a key to its limits at that replica while Redis is gone.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from app.api.keys.keys import Key
from app.errors import StoreUnavailable, TooManyRequests

BURST_S = 10.0


@dataclass(frozen=True)
class LimitOutcome:
    """What the shared count says: too early by so much, or as many under way as may be, or in, with a lease or not."""

    retry_after_s: float = 0.0
    at_concurrency_limit: bool = False
    lease: str | None = None


@runtime_checkable
class SharedLimits(Protocol):
    """The count that replicas share."""

    async def acquire(
        self, name: str, emission_interval_s: float, tolerance_s: float, concurrent: int | None
    ) -> LimitOutcome:
        """Raises StoreUnavailable."""
        ...

    async def release(self, name: str, lease: str) -> None:
        """Raises StoreUnavailable."""
        ...


class Limiter:
    """Lets a key's requests in, or refuses them."""

    def __init__(self, shared: SharedLimits | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._shared, self._clock = shared, clock
        self._used_until: dict[str, float] = {}
        self._running: Counter[str] = Counter()

    @asynccontextmanager
    async def slot(self, name: str, key: Key) -> AsyncIterator[None]:
        """One request of a key. Raises TooManyRequests."""
        self._acquire_local(name, key)
        lease = None
        try:
            try:
                lease = await self._acquire_shared(name, key)
            except TooManyRequests:
                self._used_until[name] -= _gcra_parameters(key)[0]  # or who waits as long as told would be refused here
                raise
            yield
        finally:
            self._running[name] -= 1
            if lease is not None:
                await self._release_shared(name, lease)

    def _acquire_local(self, name: str, key: Key) -> None:
        now, emission_interval_s, tolerance_s = self._clock(), *_gcra_parameters(key)
        used_until = max(self._used_until.get(name, now), now)
        if emission_interval_s and (retry_after_s := used_until + emission_interval_s - now - tolerance_s) > 1e-6:
            raise _rate_limited(key, retry_after_s)
        if key.concurrent is not None and self._running[name] >= key.concurrent:
            raise _concurrency_limited(key)
        self._used_until[name] = used_until + emission_interval_s
        self._running[name] += 1

    async def _acquire_shared(self, name: str, key: Key) -> str | None:
        """The lease taken, if the key needs one and the count can be reached. Raises TooManyRequests."""
        if self._shared is None or (key.requests_per_minute is None and key.concurrent is None):
            return None
        try:
            outcome = await self._shared.acquire(name, *_gcra_parameters(key), key.concurrent)
        except StoreUnavailable:
            return None
        if outcome.retry_after_s:
            raise _rate_limited(key, outcome.retry_after_s)
        if outcome.at_concurrency_limit:
            raise _concurrency_limited(key)
        return outcome.lease

    async def _release_shared(self, name: str, lease: str) -> None:
        assert self._shared is not None
        try:
            await asyncio.shield(self._shared.release(name, lease))
        except StoreUnavailable:
            return  # it ends by itself


def _gcra_parameters(key: Key) -> tuple[float, float]:
    """Seconds between requests, 0 without a limit, and how far ahead of that a key may be."""
    if key.requests_per_minute is None:
        return 0.0, 0.0
    emission_interval_s = 60 / key.requests_per_minute
    return emission_interval_s, max(emission_interval_s, BURST_S)


def _rate_limited(key: Key, retry_after_s: float) -> TooManyRequests:
    return TooManyRequests(
        f"This key may send {key.requests_per_minute:g} requests a minute", max(1, math.ceil(retry_after_s))
    )


def _concurrency_limited(key: Key) -> TooManyRequests:
    return TooManyRequests(f"This key may have {key.concurrent} requests under way at once", 1)
