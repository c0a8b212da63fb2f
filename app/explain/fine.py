"""Fine detail: a finer heatmap from several views of one picture, each moved by less than a cell of the model's grid.

A cell of a moved view covers another part of the picture than the same cell of the original. Where cells of several
views overlap, the combined map resolves parts of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.explain.merge import Heatmap, resize_keeping_sum
from app.shapes import Float32, UInt8

SUBDIVISION = 4  # cells of the fine grid along each side of a cell of the model's grid
# The shift (down, right) of each view in cells of the fine grid. The first view is the picture itself.
MOVES = ((0, 0), (-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
FINE_NOTE = f"The mean over {len(MOVES)} views of the picture, moved by up to a quarter of a cell."
SHARES_NOTE = "Branch shares and completeness are those of the picture itself."


def moved_views(image: UInt8[np.ndarray, "h w 3"], grid: tuple[int, int]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The picture moved by each of `MOVES` except the first.

    `grid` is (rows, columns) of the model's finest feature map.
    """
    steps = [side / cells / SUBDIVISION for side, cells in zip(image.shape[:2], grid, strict=True)]
    return [shifted(image, round(down * steps[0]), round(right * steps[1])) for down, right in MOVES[1:]]


def combine_views(heatmaps: Sequence[Heatmap], grid: tuple[int, int]) -> Float32[np.ndarray, "fine_h fine_w"]:
    """Move the heatmaps of the views back, and average them wherever they show the picture.

    `heatmaps` are in the order of `MOVES`. `grid` is that of `moved_views`; the heatmaps may have a coarser one. The
    value of a cell is divided evenly among the cells of the fine grid, so that sums are kept away from the picture's
    edge.
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
    """The picture moved within its frame. The uncovered border repeats the edge pixels."""
    rows, columns = (
        np.clip(np.arange(side) - by, 0, side - 1)
        for side, by in zip(image.shape[:2], (down_px, right_px), strict=True)
    )
    return np.asarray(image[rows][:, columns])


def _overlap(cells: int, by: int) -> tuple[slice, slice]:
    """The slice of the picture that a view moved by `by` cells still shows, and the slice of the view that shows it."""
    return slice(max(0, -by), cells - max(0, by)), slice(max(0, by), cells - max(0, -by))
