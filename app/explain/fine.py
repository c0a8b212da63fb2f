"""A finer heatmap from several views of one picture, each moved by less than a cell of the model's grid.

A cell of a moved view covers another part of the picture than the cell in its place did, so that where cells of several
views overlap, less than a cell is told apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, UInt8

from app.explain.merge import Heatmap, resize_keeping_sum

SUBDIVISION = 4  # cells of the finer grid to a cell of the model's, on each side
# By how many cells of the finer grid each view is moved, down and right; the first is the picture as it is.
MOVES = ((0, 0), (-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
FINE_NOTE = (
    f"The mean over {len(MOVES)} views of the picture, moved by up to a quarter of a cell. Branch shares and "
    "completeness are those of the picture as it is."
)


def moved_views(image: UInt8[np.ndarray, "h w 3"], grid: tuple[int, int]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The picture moved by each of `MOVES` but the first, on a grid of so many rows and columns, the model's finest."""
    steps = [side / cells / SUBDIVISION for side, cells in zip(image.shape[:2], grid, strict=True)]
    return [shifted(image, round(down * steps[0]), round(right * steps[1])) for down, right in MOVES[1:]]


def combine_views(heatmaps: Sequence[Heatmap], grid: tuple[int, int]) -> Float32[np.ndarray, "fine_h fine_w"]:
    """The heatmaps of the views, in the order of `MOVES`, each moved back and averaged where they show the picture.

    `grid` is that of `moved_views`; the heatmaps may have a coarser one. A cell's value is dealt out evenly to the
    cells of the finer grid: away from the picture's edge, sums are kept.
    """
    rows, columns = (SUBDIVISION * side for side in grid)
    total, views = np.zeros((rows, columns)), np.zeros((rows, columns))
    for heatmap, (down, right) in zip(heatmaps, MOVES, strict=True):
        fine = resize_keeping_sum(heatmap, (rows, columns))
        (into_rows, of_rows), (into_columns, of_columns) = _overlap(rows, down), _overlap(columns, right)
        total[into_rows, into_columns] += fine[of_rows, of_columns]
        views[into_rows, into_columns] += 1
    return np.asarray(total / views, np.float32)


def shifted(image: UInt8[np.ndarray, "h w 3"], down_px: int, right_px: int) -> UInt8[np.ndarray, "h w 3"]:
    """The picture moved within its frame. What comes into view repeats the edge."""
    rows, columns = (
        np.clip(np.arange(side) - by, 0, side - 1)
        for side, by in zip(image.shape[:2], (down_px, right_px), strict=True)
    )
    return np.asarray(image[rows][:, columns])


def _overlap(cells: int, by: int) -> tuple[slice, slice]:
    """Where a side of the picture is, and where a view that was moved by so many cells shows it."""
    return slice(max(0, -by), cells - max(0, by)), slice(max(0, by), cells - max(0, -by))
