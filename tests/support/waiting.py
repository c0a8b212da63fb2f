"""Waiting for a state rather than for a time: a slow machine comes to it later, and the test is the same."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 60.0  # only a test that fails takes so long


def wait_until(condition: Callable[[], object], pause_s: float = 0.01) -> None:
    """Until it is so. Raises TimeoutError after `PATIENCE_S`."""
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until_s:
            raise TimeoutError("it has not come true")
        time.sleep(pause_s)
