"""Finer heatmaps from moved views: nothing is lost, and what moved is put back where it was."""

from __future__ import annotations

import numpy as np
import pytest

from app.explain.fine import MOVES, SUBDIVISION, combine_views, moved_views
from app.explain.merge import resize_keeping_sum

CELL_PX = 8


def seen(image: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """A model that sees how bright each of its cells is."""
    rows, columns = grid
    return np.asarray(image[..., 0].reshape(rows, CELL_PX, columns, CELL_PX).mean(axis=(1, 3)))


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_a_spot_smaller_than_a_cell_is_found_where_it_is(grid: tuple[int, int]) -> None:
    """Of a model that sees cells only, one view shows a whole cell; nine show which side of it."""
    rows, columns = grid
    step = CELL_PX // SUBDIVISION
    for row in range(SUBDIVISION, SUBDIVISION * (rows - 1)):
        for column in range(SUBDIVISION, SUBDIVISION * (columns - 1)):
            image = np.zeros((rows * CELL_PX, columns * CELL_PX, 3), np.uint8)
            image[row * step : (row + 1) * step, column * step : (column + 1) * step] = 255
            views = [seen(view, grid) for view in (image, *moved_views(image, grid))]
            fine = combine_views(views, grid)
            assert fine.shape == (SUBDIVISION * rows, SUBDIVISION * columns)
            assert fine[row, column] == pytest.approx(fine.max())
            coarse = resize_keeping_sum(views[0], fine.shape)
            assert (fine == fine.max()).sum() < (coarse == coarse.max()).sum()


def test_the_map_of_a_coarser_branch_goes_back_as_far_as_the_picture_moved() -> None:
    """The picture moves by parts of the finest grid's cells; a branch may see cells twice as large."""
    finest, row, column = (8, 8), 13, 17
    image = np.zeros((8 * CELL_PX, 8 * CELL_PX, 3), np.uint8)
    image[row * 2 : row * 2 + 2, column * 2 : column * 2 + 2] = 255
    coarse = [seen(view, finest).reshape(4, 2, 4, 2).mean(axis=(1, 3)) for view in (image, *moved_views(image, finest))]
    fine = combine_views(coarse, finest)
    assert fine.shape == (32, 32)
    assert fine[row, column] == pytest.approx(fine.max())


def test_views_that_agree_leave_the_heatmap_as_it_is() -> None:
    """An even map stays even, and its sum is kept."""
    fine = combine_views([np.full((3, 4), 2.0)] * len(MOVES), (3, 4))
    np.testing.assert_allclose(fine, 2.0 / SUBDIVISION**2)
    assert fine.sum() == pytest.approx(24)


def test_signed_values_add_up_away_from_the_edge() -> None:
    heatmap = np.zeros((5, 5))
    heatmap[2, 2], heatmap[2, 3], heatmap[1, 2] = 3.0, -2.0, 0.5
    assert combine_views([heatmap] * len(MOVES), (5, 5)).sum() == pytest.approx(1.5)


def test_a_mirrored_picture_gives_the_mirrored_map() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 40, 3), np.uint8)
    grid = (4, 5)
    fine, mirrored = (
        combine_views([seen(view, grid) for view in (one, *moved_views(one, grid))], grid)
        for one in (image, image[:, ::-1])
    )
    np.testing.assert_allclose(mirrored, fine[:, ::-1], rtol=1e-5, atol=1e-6)
