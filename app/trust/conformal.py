"""Prediction sets that contain the true class at a stated rate, class by class: split conformal prediction.

A class is in the set if the picture's score for it is no higher than a quantile of the scores that calibration pictures
of that class have for it (Vovk 2012, "Conditional validity of inductive conformal predictors": Mondrian, or
class-conditional). If a picture is exchangeable with the calibration pictures of its class, the set misses its class
with a probability of at most 1 - coverage. Nothing else is assumed of the model.

The score for one of two classes is 1 minus its probability (Sadinle, Lei and Wasserman 2019, "Least ambiguous
set-valued classifiers"). For more classes it is that of adaptive prediction sets, the probability of all classes that
are more probable (Romano, Sesia and Candès 2020, "Classification with valid and adaptive coverage"; the class's own is
left out, so that the most probable class is in every set and no sure answer has an empty one), plus a penalty for the
class's rank beyond the fifth (Angelopoulos et al. 2021, "Uncertainty sets for image classifiers using
conformal prediction"), without randomisation. Both are computed from the softmax of the logits as they are: no
fitted number stands between, which would have seen the calibration pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from app.shapes import Bool, Float, Int
from app.trust.calibration import Logits, softmax
from app.trust.quantile import quantile_rank

UNPENALISED_RANK, PENALTY = 5, 0.01


class ImpossibleCoverage(ValueError):
    """A coverage that the calibration pictures are too few for. `largest` is the largest that they can promise."""

    def __init__(self, largest: float) -> None:
        super().__init__(f"the largest coverage that can be promised is {largest:.4f}")
        self.largest = largest


def scores_of(logits: Logits) -> Float[np.ndarray, "n k"]:
    """The score of every class for every picture; the higher, the stranger the class would be."""
    probabilities = softmax(np.asarray(logits, np.float64))
    if logits.shape[1] == 2:
        return 1 - probabilities
    order = np.argsort(-probabilities, axis=1, kind="stable")
    falling = np.take_along_axis(probabilities, order, axis=1)
    starts = np.concatenate([np.ones((len(falling), 1), bool), falling[:, 1:] < falling[:, :-1]], axis=1)
    ahead = np.maximum.accumulate(np.where(starts, np.arange(falling.shape[1]), 0), axis=1)  # classes more probable
    mass = np.take_along_axis(np.cumsum(falling, axis=1) - falling, ahead, axis=1)
    scores = np.empty_like(probabilities)
    # Rounded, so that the order in which probabilities are added does not count.
    np.put_along_axis(scores, order, np.round(mass + PENALTY * np.maximum(0, ahead + 1 - UNPENALISED_RANK), 9), axis=1)
    return scores


@dataclass(frozen=True, eq=False)
class ConformalSets:
    """The rising calibration scores of every class, each for its own class."""

    scores: tuple[Float[np.ndarray, " _"], ...]

    @property
    def largest_coverage(self) -> float:
        """The largest coverage that can be promised: n / (n + 1) of the class with the fewest pictures."""
        fewest = min(len(of_class) for of_class in self.scores)
        return fewest / (fewest + 1)

    def thresholds(self, coverage: float) -> Float[np.ndarray, " k"]:
        """The highest score of each class in the set. Raises ImpossibleCoverage."""
        return np.array(
            [of_class[quantile_rank(len(of_class), coverage) - 1] for of_class in self._sufficient(coverage)]
        )

    def contains(self, logits: Logits, coverage: float) -> Bool[np.ndarray, "n k"]:
        """Whether each class is in the set of each picture. Raises ImpossibleCoverage."""
        return np.asarray(scores_of(logits) <= self.thresholds(coverage))

    def _sufficient(self, coverage: float) -> tuple[np.ndarray, ...]:
        if any(quantile_rank(len(of_class), coverage) > len(of_class) for of_class in self.scores):
            raise ImpossibleCoverage(self.largest_coverage)
        return self.scores


def fit_sets(logits: Logits, labels: Int[np.ndarray, " n"]) -> ConformalSets:
    """The sets by calibration pictures. Raises ValueError if a class has none."""
    scores = scores_of(logits)
    by_class = tuple(np.sort(scores[labels == index, index]) for index in range(logits.shape[1]))
    if any(len(of_class) == 0 for of_class in by_class):
        raise ValueError("a class has no calibration pictures")
    return ConformalSets(by_class)


def one_per_group(groups: Sequence[str], seed: int) -> Int[np.ndarray, " m"]:
    """The place of one picture of each group: pictures of one group are not exchangeable with others.

    It is drawn by the group's name, so that a group has the same one among fewer groups, as in cross-fitting.
    """
    places: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    drawn = (of_group[crc32(f"{seed} {group}".encode()) % len(of_group)] for group, of_group in places.items())
    return np.sort(np.fromiter(drawn, np.int64))
