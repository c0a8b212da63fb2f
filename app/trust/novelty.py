"""How foreign a picture is to a model: the distance of its feature maps from those of the training pictures.

For each branch it is the Mahalanobis distance (Lee et al. 2018, "A simple unified framework for detecting
out-of-distribution samples and adversarial attacks", here with one mean for all classes) of the map's mean over its
cells. The covariance is that of probabilistic PCA (Tipping and Bishop 1999): exact in the leading directions, and one
variance for all others, so that what leaves the training pictures' subspace counts fully and the file stays small. The
logarithms of the branches' distances, standardised on training pictures, are added. docs/measured/novelty.md compares
this score with others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float16, Float32

from app.models.feature_maps import Branch

Pooled = Mapping[Branch, Float[np.ndarray, "n _c"]]


def pooled(maps: Mapping[Branch, Float[np.ndarray, "n _c _h _w"]]) -> dict[Branch, Float32[np.ndarray, "n _c"]]:
    """The mean of each branch's maps over their cells."""
    return {branch: of_branch.mean(axis=(2, 3), dtype=np.float32) for branch, of_branch in maps.items()}


@dataclass(frozen=True, eq=False)
class BranchDistance:
    """The standardised logarithm of a branch's Mahalanobis distance.

    `basis` has the leading directions, `variances` the training pictures' variances in them, and `rest` the mean
    variance in all other directions. `centre` and `spread` standardise the logarithm.
    """

    mean: Float32[np.ndarray, " c"]
    basis: Float16[np.ndarray, "c q"]
    variances: Float[np.ndarray, " q"]
    rest: float
    centre: float = 0.0
    spread: float = 1.0

    @cached_property
    def _directions(self) -> Float[np.ndarray, "c q"]:
        return self.basis.astype(np.float64)  # float32 would lose what little leaves the subspace

    def log_distance(self, features: Float[np.ndarray, "n c"]) -> Float[np.ndarray, " n"]:
        """The logarithm of the squared distance, standardised; the higher, the more foreign."""
        deviations = np.asarray(features, np.float64) - self.mean
        inside = deviations @ self._directions
        outside = deviations - inside @ self._directions.T
        distances = (np.square(inside) / self.variances).sum(axis=1) + np.square(outside).sum(axis=1) / self.rest
        return np.asarray((np.log(np.maximum(distances, 1e-12)) - self.centre) / self.spread)


@dataclass(frozen=True, eq=False)
class Novelty:
    """The score of a model's branches, and the rising scores of the calibration pictures."""

    branches: Mapping[Branch, BranchDistance]
    calibration: Float[np.ndarray, " n"]

    def scores(self, features: Pooled) -> Float[np.ndarray, " n"]:
        """The sum of the branches' standardised log distances; the higher, the more foreign."""
        return np.asarray(sum(distance.log_distance(features[branch]) for branch, distance in self.branches.items()))

    def percentile(self, score: float) -> float:
        """The share of calibration pictures that are less foreign, in percent; the picture itself counts as one."""
        return float(100 * np.searchsorted(self.calibration, score) / (len(self.calibration) + 1))
