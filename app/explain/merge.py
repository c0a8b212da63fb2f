"""Several branches' heatmaps merged into one, and each branch's share of an explanation.

Heatmaps in logits are added, so that a branch that hardly moves the score hardly shows. Heatmaps without a common unit
are compared after each is scaled to its own maximum, which hides how much its branch matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

import numpy as np
from annotated_types import Interval
from jaxtyping import Float, Float32

from app.models.feature_maps import Branch

Heatmap = Float[np.ndarray, "_ _"]
MergeRule = Literal["sum", "mean", "max", "product"]
MERGE_RULES: tuple[MergeRule, ...] = get_args(MergeRule)


@dataclass(frozen=True)
class Share:
    """What one branch contributes to a map, and what it is worth."""

    __pydantic_config__: ClassVar[dict[str, bool]] = {"use_attribute_docstrings": True}  # the API answers with it

    share: Annotated[float | None, Interval(ge=0, le=1)]
    """sum of its map's absolute values over that of both branches; null where they have no common unit"""
    signed_sum: float
    """sum of its map, in the method's units"""
    shapley_value: float | None = None
    """in logits, what the branch adds to the score, averaged over both orders of adding the branches to the training
    data's mean maps; null where the map is class-agnostic"""
    integrated_gradients_sum: float | None = None
    """in logits, what the score gains by the branch where both branches' maps grow together from the mean maps; null
    but for the method `integrated`"""


def resize_keeping_sum(
    heatmap: Float[np.ndarray, "*batch h w"], grid: tuple[int, int]
) -> Float32[np.ndarray, "*batch new_h new_w"]:
    """The heatmap on another grid (rows, columns) over the same area, its sum unchanged.

    Every cell is dealt out to the new cells by the area in which they overlap, so that evidence is neither made nor
    lost. On its own grid a heatmap stays as it is.
    """
    rows, columns = (_overlap(old, new) for old, new in zip(heatmap.shape[-2:], grid, strict=True))
    return np.asarray(rows @ heatmap @ columns.T, dtype=np.float32)


def merge_sum(heatmaps: Mapping[Branch, Heatmap]) -> Heatmap:
    """The branches' heatmaps, which must be in one unit, added on the finer of their grids (axis by axis).

    A branch that hardly moves the score hardly shows in the sum. Raises ValueError if there is no heatmap.
    """
    grid = _finest(heatmaps)
    return np.asarray(sum(resize_keeping_sum(heatmap, grid) for heatmap in heatmaps.values()))


def merge_normalised(heatmaps: Mapping[Branch, Heatmap], rule: MergeRule) -> Heatmap:
    """The comparators of fusion papers: each map's positive part over its maximum, then `mean`, `max` or `product`.

    Cell by cell, on the finer grid, where a cell takes the mean of what it covers. Unitless, from 0 to 1; a map
    without positive values is 0 everywhere. Raises ValueError for the rule `sum`, or if there is no heatmap.
    """
    grid = _finest(heatmaps)
    scaled = np.stack([_resized_by_mean(_normalised(heatmap), grid) for heatmap in heatmaps.values()])
    match rule:
        case "mean":
            return np.asarray(scaled.mean(axis=0))
        case "max":
            return np.asarray(scaled.max(axis=0))
        case "product":
            return np.asarray(scaled.prod(axis=0))
        case _:
            raise ValueError(f"maps scaled to their own maxima are not merged by {rule}")


def branch_shares(heatmaps: Mapping[Branch, Heatmap]) -> dict[Branch, Share]:
    """Each branch's share of the total magnitude, sum |its map| / sum over branches, each on its own grid.

    The maps must be in one unit. Shares add up to 1; if every map is zero there is nothing to share out, and every
    share is 0.
    """
    magnitudes = {branch: float(np.abs(heatmap).sum(dtype=np.float64)) for branch, heatmap in heatmaps.items()}
    total = sum(magnitudes.values())
    return {
        branch: Share(magnitudes[branch] / total if total else 0.0, signed_sum(heatmap))
        for branch, heatmap in heatmaps.items()
    }


def signed_sum(heatmap: Heatmap) -> float:
    """What the map's cells add up to."""
    return float(heatmap.sum(dtype=np.float64))


def _normalised(heatmap: Heatmap) -> Heatmap:
    positive = np.maximum(heatmap, 0)
    return np.asarray(positive / (positive.max() or 1))


def _resized_by_mean(heatmap: Heatmap, grid: tuple[int, int]) -> Heatmap:
    return np.asarray(resize_keeping_sum(heatmap, grid) * np.float32(grid[0] * grid[1] / heatmap.size))


def _finest(heatmaps: Mapping[Branch, Heatmap]) -> tuple[int, int]:
    rows, columns = zip(*(heatmap.shape for heatmap in heatmaps.values()), strict=True)
    return max(rows), max(columns)


def _overlap(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """For cells of one line cut into `old` and into `new` equal parts: which part of an old cell lies in a new one."""
    # The line is taken as old * new long, so that all cell edges are whole numbers and a column's sum is exact.
    old_edges, new_edges = np.arange(old + 1) * new, np.arange(new + 1)[:, None] * old
    overlap = np.minimum(old_edges[1:], new_edges[1:]) - np.maximum(old_edges[:-1], new_edges[:-1])
    return np.asarray(np.maximum(overlap, 0) / new)
