"""The limits of a key: requests per minute, and concurrent requests.

The rate limit is the generic cell rate algorithm (ITU-T I.371), which stores one number per key: the theoretical
arrival time of its next request. A burst of ten seconds' worth of requests is tolerated. Replicas share these counts
through Redis. Each replica also keeps local counts, which still limit a key at that replica while Redis is unavailable.
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
    """The shared limiter's outcome: rate-limited, concurrency-limited, or admitted with a lease.

    The request is rate-limited if `retry_after_s` is above 0. `lease` is None if the key has no concurrency limit.
    """

    retry_after_s: float = 0.0
    at_concurrency_limit: bool = False
    lease: str | None = None


@runtime_checkable
class SharedLimits(Protocol):
    """The counts that replicas share."""

    async def acquire(
        self, name: str, emission_interval_s: float, tolerance_s: float, concurrent: int | None
    ) -> LimitOutcome:
        """Count a request of the key `name` if its limits allow it. Raises StoreUnavailable.

        `emission_interval_s` and `tolerance_s` are the parameters of the rate limit, 0 for none. `concurrent` is the
        limit of concurrent requests, None for none.
        """
        ...

    async def release(self, name: str, lease: str) -> None:
        """End the lease of a request. Raises StoreUnavailable."""
        ...


class Limiter:
    """Admits or refuses the requests of a key, by its local and its shared counts."""

    def __init__(self, shared: SharedLimits | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._shared, self._clock = shared, clock
        self._arrival_s: dict[str, float] = {}
        self._running: Counter[str] = Counter()

    @asynccontextmanager
    async def slot(self, name: str, key: Key) -> AsyncIterator[None]:
        """The context of one request of a key, which holds its place until it ends. Raises TooManyRequests."""
        self._acquire_local(name, key)
        lease = None
        try:
            try:
                lease = await self._acquire_shared(name, key)
            except TooManyRequests:
                # Taken back, or a client that waits as long as it was told would be refused here.
                self._arrival_s[name] -= _gcra_parameters(key)[0]
                raise
            yield
        finally:
            self._running[name] -= 1
            if lease is not None:
                await self._release_shared(name, lease)

    def _acquire_local(self, name: str, key: Key) -> None:
        now, emission_interval_s, tolerance_s = self._clock(), *_gcra_parameters(key)
        arrival_s = max(self._arrival_s.get(name, now), now)
        if emission_interval_s and (retry_after_s := arrival_s + emission_interval_s - now - tolerance_s) > 1e-6:
            raise _rate_limited(key, retry_after_s)
        if key.concurrent is not None and self._running[name] >= key.concurrent:
            raise _concurrency_limited(key)
        self._arrival_s[name] = arrival_s + emission_interval_s
        self._running[name] += 1

    async def _acquire_shared(self, name: str, key: Key) -> str | None:
        """The lease, or None if the key needs none or the shared counts are unavailable. Raises TooManyRequests."""
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
            return  # the lease expires by itself


def _gcra_parameters(key: Key) -> tuple[float, float]:
    """The emission interval (0 without a rate limit) and the burst tolerance of a key, in seconds."""
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
