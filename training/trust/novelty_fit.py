"""Fits the novelty score to the pooled feature maps of training pictures, and foreign parts to their single cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from app.engines.protocol import Engine
from app.models.feature_maps import Branch, FeatureMaps, unbatched
from app.shapes import Bool, Float, Float16, Float32, UInt8
from app.trust.fitted import FittedTrust
from app.trust.foreign_parts import ForeignParts
from app.trust.novelty import BranchResidual, Pooled
from training.metrics.classification import auroc
from training.trust.observed import stored_maps
from training.trust.pasted import with_patch

KEPT = 1 / 20  # of the components: 64 of an EfficientNet's 1280, 12 of the demo Swin's 256
KEPT_OF_CELLS = 1 / 4  # single cells vary in more directions than their means
COVERED, FREE = 0.5, 0.1  # a cell is a patch's if more than the one is covered, and free if less than the other is
_SEED = 0


@dataclass(frozen=True, eq=False)
class Residuals:
    """The residuals of training pictures: of pooled maps, and of single cells, which older bundles lack."""

    pictures: Mapping[Branch, BranchResidual]
    cells: Mapping[Branch, BranchResidual] | None

    @classmethod
    def of(cls, fitted: FittedTrust) -> Residuals:
        """Those of a trust part."""
        return cls(fitted.novelty.branches, None if fitted.parts is None else fitted.parts.branches)


def fit_branch(features: Float[np.ndarray, "n c"], share: float = KEPT) -> BranchResidual:
    """The residual from a share of these pictures' principal components. Raises ValueError for fewer than three."""
    count, channels = features.shape
    if count < 3:
        raise ValueError("at least three pictures are needed")
    kept = max(1, min(int(channels * share), count // 2, channels - 1))
    fitted = BranchResidual(*principal_components(features, kept))
    logs = fitted.log_residual(features)
    return BranchResidual(fitted.mean, fitted.basis, float(logs.mean()), max(float(logs.std()), 1e-6))


def principal_components(
    features: Float[np.ndarray, "n c"], kept: int
) -> tuple[Float32[np.ndarray, " c"], Float16[np.ndarray, "c q"]]:
    """The mean of some vectors, and the leading directions of what they vary in, `kept` of them or all there are."""
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviations = np.asarray(features, np.float64) - mean
    _, directions = np.linalg.eigh(deviations.T @ deviations / len(features))
    return mean, np.ascontiguousarray(directions[:, ::-1][:, :kept], np.float16)


def fit_branches(features: Pooled) -> dict[Branch, BranchResidual]:
    """The residual of every branch."""
    return {branch: fit_branch(of_branch) for branch, of_branch in features.items()}


def fit_parts(
    cells: Mapping[Branch, Float[np.ndarray, "m _c"]], engine: Engine, images: Iterable[UInt8[np.ndarray, "h w 3"]]
) -> dict[Branch, BranchResidual]:
    """The residuals of single cells, of those branches that together find foreign patches best.

    `cells` are of training pictures, and so are `images`, in which patches are pasted. A model with one branch has no
    choice, and takes none of `images`. Raises ValueError for fewer than three cells.
    """
    residuals = {branch: fit_branch(of_branch, KEPT_OF_CELLS) for branch, of_branch in cells.items()}
    if len(residuals) == 1:
        return residuals
    rng = np.random.default_rng(_SEED)
    pasted = [with_patch(image, rng) for image in images]
    maps = [next(unbatched(stored_maps(engine, image[None]))) for image, _ in pasted]
    choices = [
        {branch: residuals[branch] for branch in names}
        for count in range(1, len(residuals) + 1)
        for names in combinations(residuals, count)
    ]
    return max(choices, key=lambda choice: patches_found(choice, maps, [inside for _, inside in pasted]))


def patches_found(
    branches: Mapping[Branch, BranchResidual],
    maps: Sequence[FeatureMaps[np.ndarray]],
    patches: Sequence[Bool[np.ndarray, "h w"]],
) -> float:
    """The mean over pictures of the AUROC of a patch's cells against the free ones, by their distance."""
    parts = ForeignParts(branches, np.zeros(0))
    ranks = (rank_of_patch(parts.distances(one), patch) for one, patch in zip(maps, patches, strict=True))
    found = [rank for rank in ranks if rank is not None]
    return float(np.mean(found)) if found else 0.0


def rank_of_patch(distances: Float[np.ndarray, "rows columns"], patch: Bool[np.ndarray, "h w"]) -> float | None:
    """The AUROC of a patch's cells against the free ones, by their distance. None if it has no cell, or all of them."""
    covered = share_of_cells(patch, distances.shape)
    if not (covered > COVERED).any() or not (covered < FREE).any():
        return None
    counted = (covered > COVERED) | (covered < FREE)
    return auroc(distances[counted], covered[counted] > COVERED)


def share_of_cells(patch: Bool[np.ndarray, "h w"], grid: tuple[int, ...]) -> Float[np.ndarray, "rows columns"]:
    """The share of each cell of a grid (rows, columns) that a patch covers."""
    rows, columns = (np.arange(cells + 1) * side / cells for cells, side in zip(grid, patch.shape, strict=True))
    sums = np.zeros((patch.shape[0] + 1, patch.shape[1] + 1))
    sums[1:, 1:] = patch.cumsum(axis=0).cumsum(axis=1)
    at = sums[np.ix_(np.round(rows).astype(int), np.round(columns).astype(int))]
    inside = at[1:, 1:] - at[:-1, 1:] - at[1:, :-1] + at[:-1, :-1]
    areas = np.diff(np.round(rows))[:, None] * np.diff(np.round(columns))
    return np.asarray(inside / np.maximum(areas, 1))
