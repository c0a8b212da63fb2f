"""How foreign a picture is to a model: how far its feature maps lie from the subspace of the training pictures' maps.

For each branch, the map's mean over its cells is compared with the leading principal components of training pictures:
the squared length of what they do not hold is the residual of Wang et al. 2022, "ViM: out-of-distribution with
virtual-logit matching". The logarithms of the branches' residuals, standardised on training pictures, are added.
docs/measured/novelty.md compares this score with others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from app.models.feature_maps import Branch, batched
from app.shapes import Float, Float16, Float32
from app.trust.quantile import bound_of

SMALLEST = 1e-12  # of a squared residual, so that its logarithm is finite
Pooled = Mapping[Branch, Float[np.ndarray, "n _c"]]


def pooled(maps: Mapping[Branch, Float[np.ndarray, "n _c _h _w"]]) -> dict[Branch, Float32[np.ndarray, "n _c"]]:
    """The mean of each branch's maps over their cells."""
    return {branch: _mean_of_cells(np.asarray(of_branch, np.float32)) for branch, of_branch in maps.items()}


def pooled_one(maps: Mapping[Branch, Float[np.ndarray, "_c _h _w"]]) -> dict[Branch, Float32[np.ndarray, " _c"]]:
    """The mean of each branch's map over its cells, for one picture."""
    return {branch: of_branch[0] for branch, of_branch in pooled(batched([maps])).items()}


def _mean_of_cells(maps: Float32[np.ndarray, "n _c _h _w"]) -> Float32[np.ndarray, "n _c"]:
    by_cell = maps.reshape(*maps.shape[:2], -1)
    return np.asarray(by_cell @ np.full(by_cell.shape[2], 1 / by_cell.shape[2], np.float32))


@dataclass(frozen=True, eq=False)
class BranchResidual:
    """The standardised logarithm of a branch's residual.

    `basis` has the leading directions of the training pictures' features about their `mean`. `centre` and `spread`
    standardise the logarithm.
    """

    mean: Float32[np.ndarray, " c"]
    basis: Float16[np.ndarray, "c q"]
    centre: float = 0.0
    spread: float = 1.0

    @cached_property
    def _directions(self) -> Float[np.ndarray, "c q"]:
        return self.basis.astype(np.float64)  # float32 would lose what little leaves the subspace

    def log_residual(self, features: Float[np.ndarray, "n c"]) -> Float[np.ndarray, " n"]:
        """The logarithm of the squared residual, standardised; the higher, the more foreign."""
        deviations = np.asarray(features, np.float64) - self.mean
        outside = deviations - deviations @ self._directions @ self._directions.T
        squares = np.square(outside).sum(axis=1)
        return np.asarray((np.log(np.maximum(squares, SMALLEST)) - self.centre) / self.spread)


@dataclass(frozen=True, eq=False)
class Novelty:
    """The score of a model's branches, and the rising scores of the calibration pictures."""

    branches: Mapping[Branch, BranchResidual]
    calibration: Float[np.ndarray, " n"]

    def scores(self, features: Pooled) -> Float[np.ndarray, " n"]:
        """The sum of the branches' standardised log residuals; the higher, the more foreign."""
        return np.asarray(sum(residual.log_residual(features[branch]) for branch, residual in self.branches.items()))

    def percentile(self, score: float) -> float:
        """The share of calibration pictures that are less foreign, in percent."""
        return float(100 * np.searchsorted(self.calibration, score) / len(self.calibration))

    def threshold(self, inside: float) -> float:
        """The score up to which a picture is in distribution, which a share of `inside` of others are."""
        return bound_of(self.calibration, inside)
