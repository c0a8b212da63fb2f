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

    early_s: float = 0.0
    full: bool = False
    lease: str | None = None


@runtime_checkable
class SharedLimits(Protocol):
    """The count that replicas share."""

    async def enter(self, name: str, emission_s: float, tolerance_s: float, concurrent: int | None) -> LimitOutcome:
        """Raises StoreUnavailable."""
        ...

    async def leave(self, name: str, lease: str) -> None:
        """Raises StoreUnavailable."""
        ...


class Limiter:
    """Lets a key's requests in, or refuses them."""

    def __init__(self, shared: SharedLimits | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._shared, self._clock = shared, clock
        self._used_until: dict[str, float] = {}
        self._running: Counter[str] = Counter()

    @asynccontextmanager
    async def turn(self, name: str, key: Key) -> AsyncIterator[None]:
        """One request of a key. Raises TooManyRequests."""
        self._enter_here(name, key)
        lease = None
        try:
            try:
                lease = await self._enter_shared(name, key)
            except TooManyRequests:
                self._used_until[name] -= _rate(key)[0]  # or who waits as long as told would be refused here
                raise
            yield
        finally:
            self._running[name] -= 1
            if lease is not None:
                await self._leave_shared(name, lease)

    def _enter_here(self, name: str, key: Key) -> None:
        now, emission_s, tolerance_s = self._clock(), *_rate(key)
        used_until = max(self._used_until.get(name, now), now)
        if emission_s and (early_s := used_until + emission_s - now - tolerance_s) > 1e-6:
            raise _too_often(key, early_s)
        if key.concurrent is not None and self._running[name] >= key.concurrent:
            raise _too_many(key)
        self._used_until[name] = used_until + emission_s
        self._running[name] += 1

    async def _enter_shared(self, name: str, key: Key) -> str | None:
        """The lease taken, if the key needs one and the count can be reached. Raises TooManyRequests."""
        if self._shared is None or (key.requests_per_minute is None and key.concurrent is None):
            return None
        try:
            entered = await self._shared.enter(name, *_rate(key), key.concurrent)
        except StoreUnavailable:
            return None
        if entered.early_s:
            raise _too_often(key, entered.early_s)
        if entered.full:
            raise _too_many(key)
        return entered.lease

    async def _leave_shared(self, name: str, lease: str) -> None:
        assert self._shared is not None
        try:
            await asyncio.shield(self._shared.leave(name, lease))
        except StoreUnavailable:
            return  # it ends by itself


def _rate(key: Key) -> tuple[float, float]:
    """Seconds between requests, 0 without a limit, and how far ahead of that a key may be."""
    if key.requests_per_minute is None:
        return 0.0, 0.0
    emission_s = 60 / key.requests_per_minute
    return emission_s, max(emission_s, BURST_S)


def _too_often(key: Key, early_s: float) -> TooManyRequests:
    return TooManyRequests(
        f"This key may send {key.requests_per_minute:g} requests a minute", max(1, math.ceil(early_s))
    )


def _too_many(key: Key) -> TooManyRequests:
    return TooManyRequests(f"This key may have {key.concurrent} requests under way at once", 1)
