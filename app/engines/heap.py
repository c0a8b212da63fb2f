"""Gives memory that was freed back to the system."""

from __future__ import annotations

import ctypes
from functools import cache


@cache
def _malloc_trim() -> ctypes._NamedFuncPointer | None:
    """glibc's function. None where the C library is another one."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def release_heap() -> None:
    """Return freed memory to the system, where the C library can.

    Compiling a graph frees as much memory as the graph keeps, and glibc holds on to it.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)
