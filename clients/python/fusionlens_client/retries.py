"""Decides whether a request is made again, and after which wait. Nothing here waits or sends.

* An answer 429 or 503 that has a `Retry-After` was refused before anything was done, so every request is made again.
* A connection that was never made has carried nothing, so every request is made again.
* A connection that broke off may have carried the request, so only those that change nothing (GET) are made again.

Nothing else is: not a request that took too long, and not a 503 that does not say when to come back.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx

Outcome = httpx.Response | httpx.RequestError
MAX_RECONNECTIONS = 2
FIRST_PAUSE_S = 0.2  # before the second connection; twice as long before the third
MIN_WAIT_S = 0.1  # a service that asks for no wait at all is not asked without end


@dataclass
class Attempts:
    """What happened to one request so far. All its waits together take at most `max_wait_s`."""

    changes_nothing: bool
    max_wait_s: float
    _waited_s: float = 0.0
    _reconnections: int = 0

    def wait_s(self, outcome: Outcome) -> float | None:
        """How long to wait before the request is made again. None if this outcome is the last one."""
        wait_s = self._proposed_wait_s(outcome)
        if wait_s is None or self._waited_s + wait_s > self.max_wait_s:
            return None
        self._waited_s += wait_s
        return wait_s

    def _proposed_wait_s(self, outcome: Outcome) -> float | None:
        if isinstance(outcome, httpx.Response):
            wait_s = retry_after_s(outcome) if outcome.status_code in (429, 503) else None
            return None if wait_s is None else max(MIN_WAIT_S, wait_s)
        if not self._may_reconnect(outcome) or self._reconnections == MAX_RECONNECTIONS:
            return None
        self._reconnections += 1
        return FIRST_PAUSE_S * 2.0 ** (self._reconnections - 1)

    def _may_reconnect(self, error: httpx.RequestError) -> bool:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return True
        return self.changes_nothing and isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)


def retry_after_s(response: httpx.Response) -> float | None:
    """The seconds of `Retry-After`, which may also be a date (RFC 9110, 10.2.3). None if there is none."""
    text = response.headers.get("retry-after", "").strip()
    if re.fullmatch("[0-9]{1,9}", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
