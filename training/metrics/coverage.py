"""How often prediction sets should contain the true class, given how many pictures they were calibrated on."""

from __future__ import annotations

import math

import numpy as np


def coverage_interval(calibrated: int, judged: int, coverage: float, level: float = 0.95) -> tuple[float, float]:
    """The interval of the share of `judged` pictures of a class whose set contains it, from `calibrated` pictures.

    Under exchangeability and without ties, the number of pictures is beta-binomial (Angelopoulos and Bates 2023,
    "Conformal prediction: a gentle introduction", section 3.2). The interval leaves out at most (1 - level) / 2 of the
    probability on either side. Raises ValueError if `calibrated` is too small for the coverage.
    """
    rank = math.ceil(round((calibrated + 1) * coverage, 9))
    if rank > calibrated:
        raise ValueError("there are too few calibration pictures for this coverage")
    a, b = rank, calibrated + 1 - rank
    logs = np.array([_log_choose(judged, k) + _log_beta(k + a, judged - k + b) for k in range(judged + 1)])
    cumulated = np.cumsum(np.exp(logs - _log_beta(a, b)))
    tail = (1 - level) / 2
    low = int(np.searchsorted(cumulated, tail, side="right"))
    high = int(np.searchsorted(cumulated, 1 - tail - 1e-12))
    return low / judged, min(high, judged) / judged


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_beta(a: int, b: int) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
