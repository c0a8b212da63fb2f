"""Merges the heatmaps of several branches into one, and computes each branch's share of an explanation.

Heatmaps in logits are added, so that a branch with little effect on the score is hardly visible. Heatmaps without a
common unit are first scaled to their own maximum, which hides how much each branch matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

import numpy as np
from annotated_types import Interval

from app.models.feature_maps import Branch
from app.shapes import Float, Float32

Heatmap = Float[np.ndarray, "_ _"]
MergeRule = Literal["sum", "mean", "max", "product"]
MERGE_RULES: tuple[MergeRule, ...] = get_args(MergeRule)


@dataclass(frozen=True)
class Share:
    """The contribution of one branch to a map and to the score."""

    __pydantic_config__: ClassVar[dict[str, bool]] = {"use_attribute_docstrings": True}  # the API answers with it

    share: Annotated[float | None, Interval(ge=0, le=1)]
    """sum of the absolute values of its map, divided by that of both branches; null where they lack a common unit"""
    signed_sum: float
    """sum of its map, in the units of the method"""
    shapley_value: float | None = None
    """what the branch adds to the score, in logits: the mean over both orders of replacing the training data's mean
    maps by the branches' own; null if the map is class-agnostic"""
    integrated_gradients_sum: float | None = None
    """sum of the branch's integrated gradients, in logits, along the path from the mean maps to the maps of both
    branches; null for other methods than `integrated`"""


def resize_keeping_sum(
    heatmap: Float[np.ndarray, "*batch h w"], grid: tuple[int, int]
) -> Float32[np.ndarray, "*batch new_h new_w"]:
    """Resample a heatmap to another grid (rows, columns) over the same area, with the same sum.

    The value of a cell is divided among the new cells in proportion to the area of overlap, so that no evidence is
    added or lost. On its own grid, a heatmap is unchanged.
    """
    rows, columns = (_overlap(old, new) for old, new in zip(heatmap.shape[-2:], grid, strict=True))
    return np.asarray(rows @ heatmap @ columns.T, dtype=np.float32)


def resize_keeping_mean(heatmap: Heatmap, grid: tuple[int, int]) -> Heatmap:
    """Resample a heatmap to another grid (rows, columns) over the same area, with the same mean."""
    return np.asarray(resize_keeping_sum(heatmap, grid) * np.float32(grid[0] * grid[1] / heatmap.size))


def per_finest_cell(heatmaps: Sequence[Heatmap]) -> list[Heatmap]:
    """Heatmaps in one unit, each on its own grid, with what an area of the size of a cell of the finest grid holds.

    A cell of a coarse grid covers several of a fine one, so that its value is not comparable with theirs.
    """
    rows, columns = finest_grid(heatmaps)
    return [np.asarray(heatmap * np.float32(heatmap.size / (rows * columns))) for heatmap in heatmaps]


def merge_sum(heatmaps: Mapping[Branch, Heatmap]) -> Heatmap:
    """The sum of the branches' heatmaps, on the finer of their grids along each axis.

    The heatmaps must have a common unit. Raises ValueError if there is no heatmap.
    """
    grid = finest_grid(heatmaps.values())
    return np.asarray(sum(resize_keeping_sum(heatmap, grid) for heatmap in heatmaps.values()))


def merge_normalised(heatmaps: Mapping[Branch, Heatmap], rule: MergeRule) -> Heatmap:
    """The `mean`, `max` or `product` of the branches' heatmaps, each cut off at zero and scaled to its own maximum.

    These are the comparators of fusion papers. The rule is applied cell by cell on the finer grid along each axis; to
    get there, a heatmap is resampled with its mean kept. The result is unitless, from 0 to 1. A heatmap without
    positive values counts as 0 everywhere. Raises ValueError for the rule `sum`, or if there is no heatmap.
    """
    grid = finest_grid(heatmaps.values())
    scaled = np.stack([resize_keeping_mean(_normalised(heatmap), grid) for heatmap in heatmaps.values()])
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
    """Each branch's share of the total magnitude: the sum of |its map|, divided by that sum over all branches.

    The maps must have a common unit; each is summed on its own grid. The shares add up to 1, or are all 0 if every map
    is zero.
    """
    magnitudes = {branch: float(np.abs(heatmap).sum(dtype=np.float64)) for branch, heatmap in heatmaps.items()}
    total = sum(magnitudes.values())
    return {
        branch: Share(magnitudes[branch] / total if total else 0.0, signed_sum(heatmap))
        for branch, heatmap in heatmaps.items()
    }


def signed_sum(heatmap: Heatmap) -> float:
    """The sum of the cells, computed in double precision."""
    return float(heatmap.sum(dtype=np.float64))


def _normalised(heatmap: Heatmap) -> Heatmap:
    positive = np.maximum(heatmap, 0)
    return np.asarray(positive / (positive.max() or 1))


def finest_grid(maps: Iterable[np.ndarray]) -> tuple[int, int]:
    """The largest number of rows, and of columns, among some maps `[..., h, w]`.

    Raises ValueError if there is none.
    """
    rows, columns = (max(side) for side in zip(*(feature_map.shape[-2:] for feature_map in maps), strict=True))
    return rows, columns


def _overlap(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """The fraction of each old cell inside each new cell, for a line divided into `old` and into `new` cells."""
    # The line has the length old * new, so that all cell edges are integers and the sum of a column is exact.
    old_edges, new_edges = np.arange(old + 1) * new, np.arange(new + 1)[:, None] * old
    overlap = np.minimum(old_edges[1:], new_edges[1:]) - np.maximum(old_edges[:-1], new_edges[:-1])
    return np.asarray(np.maximum(overlap, 0) / new)
