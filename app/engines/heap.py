"""The C library's heap: how far it spreads, and freed memory that is given back to the system."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

_M_ARENA_MAX = -8  # malloc.h of glibc


@cache
def _function(name: str) -> Any:
    """A function of glibc. None where the C library is another one."""
    return getattr(ctypes.CDLL(None), name, None)


def limit_arenas(threads: int) -> None:
    """Let so many threads that compute share arenas by two, where the C library can and MALLOC_ARENA_MAX is not set.

    By default glibc gives every thread an arena of its own, up to eight for a core, and what is freed in one of them is
    of no use to the others: 30 MB after a mixed load on two cores. Only arenas to come are counted, so this is called
    before threads start.
    """
    if "MALLOC_ARENA_MAX" not in os.environ and (mallopt := _function("mallopt")) is not None:
        mallopt(_M_ARENA_MAX, max(1, threads // 2))


def release_heap() -> None:
    """Return freed memory to the system, where the C library can.

    Compiling a graph frees as much memory as the graph keeps, and glibc holds on to it.
    """
    if (trim := _function("malloc_trim")) is not None:
        trim(0)
