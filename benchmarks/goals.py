"""What FusionLens sets out to reach, each as a figure of the run, with its value in every round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles

from benchmarks.contestants import (
    BARE_OPENVINO,
    EXPLAINED,
    FURTHER,
    GET_GRADCAM,
    OPEN_PREDICT,
    POST_PREDICT,
    THEIRS,
    UNBOUNDED,
)
from benchmarks.served import CLIENTS, Served
from benchmarks.timing import Times


@dataclass(frozen=True)
class Measured:
    """All that was measured of one model. `build_s` says how long each contestant took to be made ready."""

    times: dict[str, Times]
    off: dict[str, float]
    build_s: dict[str, float]
    served: Served
    starts: dict[str, Times]

    def slowest_further(self) -> str:
        """The contestant of further explanations that takes longest, of those that have a goal."""
        names = [name for name in self.times if name.startswith(FURTHER) and name not in UNBOUNDED]
        return max(names, key=lambda name: self.times[name].median_ms)


@dataclass(frozen=True)
class Goal:
    """A figure and its bound. `rounds` gives the figure in every round; the median is what counts."""

    meaning: str
    rounds: Callable[[Measured], list[float]]
    bound: float
    at_least: bool = False
    must: Callable[[Measured], bool] = lambda measured: True

    def reached(self, measured: Measured) -> bool:
        """Whether the median keeps the bound, and what else the goal asks holds."""
        value = median(self.rounds(measured))
        return (value >= self.bound if self.at_least else value <= self.bound) and self.must(measured)

    def stated(self) -> str:
        """The bound in words."""
        return f"{'≥' if self.at_least else '≤'} {self.written(self.bound)}"

    def found(self, measured: Measured) -> str:
        """The median, with quartiles where there were rounds. It is not rounded to the bound if it misses the bound."""
        values = self.rounds(measured)
        digits = (digits for digits in range(3, 17) if self.written(median(values), digits) != self.written(self.bound))
        text = self.written(median(values), 3 if self.reached(measured) else next(digits, 3))
        if len(values) > 1:
            low, _, high = quantiles(values, n=4, method="inclusive")
            text += f" ({self.written(low)} to {self.written(high)})"
        return text

    def written(self, value: float, digits: int = 3) -> str:
        """Small shares as 1/x where the goal is set as one."""
        if self.bound >= 1:
            return f"{value:.{digits}g}"
        return f"1/{1 / value:.{digits}g}"


def ratio(above: list[float], below: list[float]) -> list[float]:
    """Two figures' ratio, round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def _times(contestant: str | Callable[[Measured], str], against: str) -> Callable[[Measured], list[float]]:
    def rounds(measured: Measured) -> list[float]:
        name = contestant if isinstance(contestant, str) else contestant(measured)
        return ratio(list(measured.times[name].rounds_ms), list(measured.times[against].rounds_ms))

    return rounds


def _rates(against: Callable[[Served], str]) -> Callable[[Measured], list[float]]:
    return lambda m: ratio(m.served.rates(m.served.own), m.served.rates(against(m.served)))


def _starts(measured: Measured) -> list[float]:
    return ratio(list(measured.starts["openvino"].rounds_ms), list(measured.starts["torch"].rounds_ms))


def _memory(measured: Measured) -> list[float]:
    served = measured.served
    return [served.memory_mb[served.own] / served.memory_mb[served.own_torch]]


SERVED = f"explained predictions served per second, {CLIENTS} clients"
GOALS = (
    Goal(f"explained prediction (logits and the fused heatmap) ÷ {THEIRS}", _times(EXPLAINED, THEIRS), 1 / 4.5),
    Goal("explained prediction ÷ bare OpenVINO forward", _times(EXPLAINED, BARE_OPENVINO), 1.12),
    Goal(
        f"further explanation of a stored prediction (the slowest method except `integrated`) ÷ {THEIRS}",
        _times(Measured.slowest_further, THEIRS),
        1 / 35,
    ),
    Goal(f"`GET /gradcam` PNG over HTTP ÷ {THEIRS} alone", _times(GET_GRADCAM, THEIRS), 1 / 20),
    Goal("`POST /predict` over HTTP ÷ the same in process", _times(POST_PREDICT, OPEN_PREDICT), 1.10),
    Goal(
        f"{SERVED} ÷ LitServe with {THEIRS}, the best configuration tried",
        _rates(lambda s: s.lit_gradcam_best),
        4,
        True,
    ),
    Goal(f"{SERVED} ÷ bare LitServe with its default settings", _rates(lambda s: s.lit_default), 1.5, True),
    Goal(f"{SERVED} ÷ bare LitServe, the best configuration tried", _rates(lambda s: s.lit_best), 1.2, True),
    Goal(
        f"median latency of `GET /gradcam` while {CLIENTS} clients post ÷ their median latency",
        lambda m: [Times(tuple(m.served.watched.watched_ms)).median_ms / m.served.watched.at(50)],
        1 / 8,
        must=lambda m: not m.served.watched.lost,
    ),
    Goal(
        f"p99 ÷ p50 under {CLIENTS} clients in the long run, with nothing lost",
        lambda m: [m.served.steady.at(99) / m.served.steady.at(50)],
        2.5,
        must=lambda m: not m.served.steady.lost,
    ),
    Goal("process start to first explained prediction with a warm cache ÷ the torch engine", _starts, 1 / 5),
    Goal("resident memory while serving ÷ the torch engine", _memory, 1 / 2),
)
MOST_INSTALLED_MB = 450
