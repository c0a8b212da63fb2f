"""Which calibration score bounds a share of further pictures that are exchangeable with the calibration pictures."""

from __future__ import annotations

import math


def quantile_rank(count: int, share: float) -> int:
    """Which of the rising calibration scores is the threshold, from 1; beyond `count` there is none."""
    return max(1, math.ceil(round((count + 1) * share, 9)))  # rounded, as 0.9 · 10 must be 9
