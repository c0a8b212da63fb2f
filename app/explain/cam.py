"""Class activation maps from a feature map and the score's gradient at it, and the two branches' maps as one.

A heatmap is signed float32 on the model's own grid: no ReLU, no resize, no normalisation. `app.explain.overlay`
turns it into a picture.

Every method is a plain function in `METHODS`; `UNITS` says in what unit its values are. Heatmaps in one unit can be
added, and so can the branches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from app.models.feature_maps import Branch

Heatmap = Float[np.ndarray, "_ _"]


@dataclass(frozen=True)
class BranchShare:
    """How much of an explanation is one branch's: its part of the total magnitude (0 to 1), and its signed sum."""

    share: float
    signed_sum: float


def gradcam(
    activation: Float[np.ndarray, "*batch c h w"], gradient: Float[np.ndarray, "*batch c h w"]
) -> Float[np.ndarray, "*batch h w"]:
    """Grad-CAM (Selvaraju et al. 2017) without its ReLU: each channel weighted by its mean gradient, then summed.

    `gradient` is the derivative of the score at `activation`. The values are in the score's unit, logits: for a head
    of one global mean and a linear layer they add up to the score without its bias.
    """
    weights = gradient.mean(axis=(-2, -1), dtype=np.float32)
    return np.asarray(np.einsum("...chw,...c->...hw", activation, weights), dtype=np.float32)


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"gradcam": gradcam}
UNITS: dict[str, str] = {"gradcam": "logit"}


def resize_keeping_sum(
    heatmap: Float[np.ndarray, "*batch h w"], grid: tuple[int, int]
) -> Float[np.ndarray, "*batch new_h new_w"]:
    """The heatmap on another grid (rows, columns) over the same area, its sum unchanged.

    Every cell is dealt out to the new cells by the area in which they overlap, so that evidence is neither made nor
    lost. On its own grid a heatmap stays as it is.
    """
    rows, columns = (_overlap(old, new) for old, new in zip(heatmap.shape[-2:], grid, strict=True))
    return np.asarray(rows @ heatmap @ columns.T, dtype=np.float32)


def fuse(heatmaps: Mapping[Branch, Heatmap]) -> Heatmap:
    """The branches' heatmaps, which must be in one unit, added on the finer of their grids (axis by axis).

    A branch that hardly moves the score hardly shows in the sum. Raises ValueError if there is no heatmap.
    """
    rows, columns = zip(*(heatmap.shape for heatmap in heatmaps.values()), strict=True)
    grid = (max(rows), max(columns))
    return np.asarray(sum(resize_keeping_sum(heatmap, grid) for heatmap in heatmaps.values()))


def branch_shares(heatmaps: Mapping[Branch, Heatmap]) -> dict[Branch, BranchShare]:
    """Each branch's share of the total magnitude, sum |its map| / sum over branches, each on its own grid.

    Shares add up to 1. If every map is zero there is nothing to share out, and every share is 0.
    """
    magnitudes = {branch: float(np.abs(heatmap).sum(dtype=np.float64)) for branch, heatmap in heatmaps.items()}
    total = sum(magnitudes.values())
    return {
        branch: BranchShare(magnitudes[branch] / total if total else 0.0, float(heatmap.sum(dtype=np.float64)))
        for branch, heatmap in heatmaps.items()
    }


def _overlap(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """For cells of one line cut into `old` and into `new` equal parts: which part of an old cell lies in a new one."""
    # The line is taken as old * new long, so that all cell edges are whole numbers and a column's sum is exact.
    old_edges, new_edges = np.arange(old + 1) * new, np.arange(new + 1)[:, None] * old
    overlap = np.minimum(old_edges[1:], new_edges[1:]) - np.maximum(old_edges[:-1], new_edges[:-1])
    return np.asarray(np.maximum(overlap, 0) / new)
