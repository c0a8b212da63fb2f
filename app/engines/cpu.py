"""The number of CPU cores that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2, inside a container: quota and period in µs


def available_cores() -> int:
    """The cores in this process's scheduler affinity, or the CPU limit of its container if that is lower.

    More threads than this slow each other down: 16 threads would use up a quota of 2 cores early in each period, and
    then stand still.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _CGROUP_LIMIT.read_text().partition(" ") if _CGROUP_LIMIT.exists() else ("max", "", "")
    return cores if quota == "max" else min(cores, max(1, math.ceil(int(quota) / int(period))))
