"""Timing that can be compared: all contestants in turn, round by round, so that a slow moment hits them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """What one contestant took in each round, in ms."""

    rounds_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return statistics.median(self.rounds_ms)

    @property
    def quartiles_ms(self) -> tuple[float, float]:
        """The spread: a quarter of the rounds lies below the first, a quarter above the second."""
        low, _, high = statistics.quantiles(self.rounds_ms, n=4, method="inclusive")
        return low, high


def interleaved(contestants: Mapping[str, Callable[[], object]], rounds: int, warmups: int = 2) -> dict[str, Times]:
    """Time each contestant once a round; the first `warmups` rounds do not count."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(warmups + rounds):
        for name, run in contestants.items():
            began = time.perf_counter()
            run()
            if number >= warmups:
                taken[name].append((time.perf_counter() - began) * 1e3)
    return {name: Times(tuple(values)) for name, values in taken.items()}


def median_ratio(times: Times, against: Times) -> float:
    """The median of the ratios, round by round."""
    return ratio_of_rounds(times.rounds_ms, against.rounds_ms)


def ratio_of_rounds(values: Sequence[float], against: Sequence[float]) -> float:
    """The median of the ratios of two lists of measurements that were taken in the same rounds."""
    return statistics.median(a / b for a, b in zip(values, against, strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """The value at a percentile, by linear interpolation."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
