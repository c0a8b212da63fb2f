"""The limits that replicas share, counted by one script in Redis with the clock of Redis."""

from __future__ import annotations

import secrets
from collections import defaultdict, deque
from functools import partial

from app.api.keys.limits import LimitOutcome
from app.errors import StoreUnavailable
from app.serving.stores.redis_client import SharedRedis

_LEASE_S = 300.0  # requests of a replica that was killed are counted no longer than this
_MAX_UNRELEASED = 1000
# KEYS: theoretical arrival time, leases. ARGV: emission interval in s or 0, tolerance in s, concurrency limit or 0,
# name of the lease, its lifetime in s, leases that have ended. Returns {0, 0} if the request is admitted, {1, wait in
# ms} if the rate limit is reached, and {2, 1000} if the concurrency limit is reached. What this script cannot have
# written counts for nothing and is replaced: keys of another type, and times that are no number or too far ahead.
_ACQUIRE = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
local emission, tolerance, concurrent = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local arrival, lifetime = now, tonumber(ARGV[5])
for key, kind in pairs({[KEYS[1]] = 'string', [KEYS[2]] = 'zset'}) do
  if redis.call('TYPE', key).ok ~= kind then redis.call('DEL', key) end
end
for place = 6, #ARGV do redis.call('ZREM', KEYS[2], ARGV[place]) end
if emission > 0 then
  local stored = tonumber(redis.call('GETRANGE', KEYS[1], 0, 63)) or now
  if stored > now and stored <= now + tolerance + emission then arrival = stored end
  local early = arrival + emission - now - tolerance
  if early > 1e-6 then return {1, math.ceil(early * 1000)} end
end
if concurrent > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '(' .. string.format('%.6f', now + lifetime), '+inf')
  if redis.call('ZCARD', KEYS[2]) >= concurrent then return {2, 1000} end
  redis.call('ZADD', KEYS[2], now + lifetime, ARGV[4])
  redis.call('PEXPIRE', KEYS[2], math.ceil(lifetime * 1000))
end
if emission > 0 then
  arrival = arrival + emission
  redis.call('SET', KEYS[1], string.format('%.6f', arrival), 'PX', math.ceil((arrival - now) * 1000) + 1)
end
return {0, 0}
"""


class RedisLimits:
    """`SharedLimits` in Redis."""

    def __init__(self, shared: SharedRedis) -> None:
        self._shared, self._redis = shared, shared.client
        # By key, the leases that ended while Redis could not be reached.
        self._unreleased: dict[str, deque[str]] = defaultdict(partial(deque[str], maxlen=_MAX_UNRELEASED))

    async def acquire(
        self, name: str, emission_interval_s: float, tolerance_s: float, concurrent: int | None
    ) -> LimitOutcome:
        """See `SharedLimits.acquire`."""
        lease = secrets.token_hex(8)
        ended = self._unreleased.pop(name, ())
        arguments = [*map(str, (emission_interval_s, tolerance_s, concurrent or 0, lease, _LEASE_S)), *ended]
        try:
            limit, retry_after_ms = await self._shared.execute(
                lambda: self._redis.eval(_ACQUIRE, 2, *_names(name), *arguments)
            )
        except StoreUnavailable:
            self._unreleased[name].extend([*ended, lease])  # Redis may have counted this one
            raise
        return LimitOutcome(retry_after_ms / 1e3 if limit == 1 else 0.0, limit == 2, lease if concurrent else None)

    async def release(self, name: str, lease: str) -> None:
        """See `SharedLimits.release`."""
        try:
            await self._shared.execute(lambda: self._redis.zrem(_names(name)[1], lease))
        except StoreUnavailable:
            self._unreleased[name].append(lease)
            raise


def _names(name: str) -> tuple[str, str]:
    # The braces put both keys into one hash slot, as a Redis cluster requires for a script.
    return f"fusionlens:limit:{{{name}}}:rate", f"fusionlens:limit:{{{name}}}:running"
