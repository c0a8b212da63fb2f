"""Commands to a Redis that replicas share, and that may be unavailable."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from app.errors import InvalidSettings, StoreUnavailable
from app.telemetry.metrics import Metrics

T = TypeVar("T")
_PAUSE_S = 1.0  # after a failure, commands fail at once for this time
_CONNECTIONS = 32
logger = logging.getLogger("fusionlens.store")


def connect(url: str, timeout_s: float) -> redis.asyncio.Redis:
    """A client that gives up after `timeout_s`. If a connection was lost, it retries once on a new one.

    Raises InvalidSettings for an address with options that Redis does not have.
    """
    try:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1),
        )
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing, and refuses unknown options
    except (ValueError, TypeError):
        reason = "setting redis_url (FUSIONLENS_REDIS_URL): an option behind its question mark is wrong or unknown"
        raise InvalidSettings([reason]) from None  # the error may quote the password
    return redis.asyncio.Redis(connection_pool=pool)


class SharedRedis:
    """Runs commands with a time limit. While Redis cannot be reached, commands fail at once for a second.

    An error that Redis answers, as for a key of another type, is that command's error and nobody else's.

    `reached` says whether Redis has ever answered. The command of a cancelled caller runs to its end, so that its reply
    is not left on the connection, where the next command would read it.
    """

    def __init__(self, client: redis.asyncio.Redis, metrics: Metrics) -> None:
        self.client, self._metrics = client, metrics
        self.reached, self._pause_until = False, 0.0
        self._running: set[asyncio.Future[Any]] = set()

    async def execute(self, command: Callable[[], Awaitable[T]]) -> T:
        """Run a command and return the answer of Redis. Raises StoreUnavailable, if it is an error as well."""
        if time.monotonic() < self._pause_until:
            raise _unavailable()
        running = asyncio.ensure_future(command())
        self._running.add(running)
        running.add_done_callback(self._record_outcome)
        try:
            return await asyncio.shield(running)
        except RedisError as error:
            raise _unreadable() if _concerns_one_key(error) else _unavailable() from error

    async def observe(self, command: Callable[[], Awaitable[T]]) -> T:
        """Run a command that only looks at Redis: that it works says nothing of others. Raises StoreUnavailable."""
        try:
            return await command()
        except RedisError as error:
            raise _unavailable() from error

    def _record_outcome(self, running: asyncio.Future[Any]) -> None:
        self._running.discard(running)
        if running.cancelled():
            return
        error = running.exception()
        is_usable = error is None or _concerns_one_key(error)
        self._metrics.store_up.set(is_usable)
        self.reached |= is_usable
        if error and time.monotonic() >= self._pause_until:
            if is_usable:  # the error itself would show the id of a prediction
                logger.warning("A key in Redis has a value that this service did not write.")
                return
            if not isinstance(error, ResponseError):
                self._pause_until = time.monotonic() + _PAUSE_S
            logger.warning("Redis cannot be used: %s", error)

    async def close(self) -> None:
        """Close the connections."""
        await self.client.aclose()


def _concerns_one_key(error: BaseException) -> bool:
    """Whether Redis answered that the key has a value of another type. Its other errors are about itself."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


def _unreadable() -> StoreUnavailable:
    return StoreUnavailable("The entry stored under this id cannot be read. Send the picture to /predict again.")


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable(
        "The store of predictions cannot be reached: try again in a moment, or send the picture to the same address "
        "by POST, which needs no store."
    )
