"""Which calibration score bounds a share of further pictures that are exchangeable with the calibration pictures."""

from __future__ import annotations

import math

import numpy as np

from app.shapes import Float


def quantile_rank(count: int, share: float) -> int:
    """Which of the rising calibration scores is the threshold, from 1; beyond `count` there is none."""
    return max(1, math.ceil(round((count + 1) * share, 9)))  # rounded, as 0.9 · 10 must be 9


def bound_of(rising: Float[np.ndarray, " n"], share: float) -> float:
    """The value that a share of further pictures do not exceed, or the highest there is if none can be promised."""
    return float(rising[min(quantile_rank(len(rising), share), len(rising)) - 1])
