"""The limits that replicas share, counted in Redis by one script, on Redis's own clock."""

from __future__ import annotations

import secrets

from app.api.keys.limits import LimitOutcome
from app.serving.stores.redis_client import SharedRedis

_LEASE_S = 300.0  # what a replica that was killed had under way ends after this
# KEYS: allowance, leases. ARGV: seconds a request or 0, tolerance, most at once or 0, lease's name, its seconds.
# Returns which limit is reached (0: none) and the milliseconds until the rate allows the next.
_ENTER = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
local emission, tolerance, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local used_until = now
if emission > 0 then
  used_until = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
  local early = used_until + emission - now - tolerance
  if early > 1e-6 then return {1, math.ceil(early * 1000)} end
end
if most > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  if redis.call('ZCARD', KEYS[2]) >= most then return {2, 1000} end
  redis.call('ZADD', KEYS[2], now + tonumber(ARGV[5]), ARGV[4])
  redis.call('PEXPIRE', KEYS[2], math.ceil(tonumber(ARGV[5]) * 1000))
end
if emission > 0 then
  used_until = used_until + emission
  redis.call('SET', KEYS[1], string.format('%.6f', used_until), 'PX', math.ceil((used_until - now) * 1000) + 1)
end
return {0, 0}
"""


class RedisLimits:
    """`SharedLimits` in Redis."""

    def __init__(self, shared: SharedRedis) -> None:
        self._shared, self._redis = shared, shared.client

    async def acquire(
        self, name: str, emission_interval_s: float, tolerance_s: float, concurrent: int | None
    ) -> LimitOutcome:
        """See `SharedLimits.acquire`."""
        lease = secrets.token_hex(8)
        arguments = map(str, (emission_interval_s, tolerance_s, concurrent or 0, lease, _LEASE_S))
        reached, early_ms = await self._shared.execute(lambda: self._redis.eval(_ENTER, 2, *_names(name), *arguments))
        return LimitOutcome(early_ms / 1e3 if reached == 1 else 0.0, reached == 2, lease if concurrent else None)

    async def release(self, name: str, lease: str) -> None:
        """See `SharedLimits.release`."""
        await self._shared.execute(lambda: self._redis.zrem(_names(name)[1], lease))


def _names(name: str) -> tuple[str, str]:
    # One hash slot, as a cluster wants it for one script.
    return f"fusionlens:limit:{{{name}}}:rate", f"fusionlens:limit:{{{name}}}:running"
