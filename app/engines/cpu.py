"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # of a container's own group (cgroup v2): quota and period, in µs


def available_cores() -> int:
    """The cores that the scheduler gives us, or a container's limit where that is lower.

    More threads than that stop each other: a quota of 2 cores on a machine of 16 would else be spent by 16 threads.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _CGROUP_LIMIT.read_text().partition(" ") if _CGROUP_LIMIT.exists() else ("max", "", "")
    return cores if quota == "max" else min(cores, max(1, math.ceil(int(quota) / int(period))))
