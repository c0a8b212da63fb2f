"""Foreign parts: the cells that are least like training cells stand out, on the finest grid, above a limit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.models.feature_maps import Branch, FeatureMaps
from app.trust.foreign_parts import ForeignParts, cells_of
from training.trust.novelty_fit import fit_branch, patches_found, share_of_cells
from training.trust.pasted import with_patch


def maps_of(count: int, seed: int) -> list[FeatureMaps[np.ndarray]]:
    """Maps whose cells vary in a few directions, with a little noise in all others."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        maps = FeatureMaps[np.ndarray]()
        shapes: list[tuple[Branch, int, int]] = [("cnn", 32, 2), ("swin", 16, 4)]
        for branch, channels, side in shapes:
            directions = np.random.default_rng(channels).normal(size=(4, channels))
            cells = rng.normal(size=(side * side, 4)) @ directions + 0.1 * rng.normal(size=(side * side, channels))
            maps[branch] = np.ascontiguousarray(cells.T.reshape(channels, side, side), np.float32)
        found.append(maps)
    return found


@pytest.fixture(scope="module")
def parts() -> ForeignParts:
    train = maps_of(300, 0)
    residuals = {
        branch: fit_branch(np.concatenate([cells_of(each[branch]) for each in train]), 1 / 4) for branch in train[0]
    }
    known = ForeignParts(residuals, np.zeros(0))
    return ForeignParts(residuals, np.sort([known.distances(each).max() for each in maps_of(99, 1)]))


def test_a_foreign_cell_is_the_most_foreign_and_above_the_limit(parts: ForeignParts) -> None:
    for seed in range(20):
        (maps,) = maps_of(1, 100 + seed)
        place = divmod(seed % 16, 4)
        maps["swin"][:, place[0], place[1]] += 5 * np.random.default_rng(1000 + seed).normal(size=16)
        distances = parts.distances(maps)
        assert distances.shape == (4, 4) and distances.dtype == np.float32
        assert divmod(int(distances.argmax()), 4) == place
        assert distances.max() > parts.limit(0.95)


def test_cells_of_pictures_like_the_training_pictures_are_as_usual(parts: ForeignParts) -> None:
    distances = np.stack([parts.distances(maps) for maps in maps_of(200, 2)])
    assert abs(distances.mean()) < 0.1
    above = float((distances.max(axis=(1, 2)) > parts.limit(0.9)).mean())
    assert 0.02 < above < 0.25  # a tenth, but for chance


def test_the_map_is_the_mean_over_branches_each_with_its_own_mean(parts: ForeignParts) -> None:
    (maps,) = maps_of(1, 3)
    alone = [
        ForeignParts({branch: residual}, parts.highest).distances({branch: maps[branch]}).mean()
        for branch, residual in parts.branches.items()
    ]
    assert parts.distances(maps).mean() == pytest.approx(np.mean(alone), rel=1e-5)


def test_patches_are_found_by_the_branch_that_sees_them(parts: ForeignParts) -> None:
    maps, patches = maps_of(10, 4), []
    for seed, of_picture in enumerate(maps):
        patch = np.zeros((64, 64), bool)
        row, column = divmod(seed % 16, 4)
        patch[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = True
        of_picture["swin"][:, row, column] += 5 * np.random.default_rng(1000 + seed).normal(size=16)
        patches.append(patch)
    assert patches_found({"swin": parts.branches["swin"]}, maps, patches) == 1.0
    assert 0 <= patches_found({"cnn": parts.branches["cnn"]}, maps, patches) < 0.9


@given(seed=st.integers(0, 10_000), grid=st.sampled_from([(1, 1), (3, 5), (7, 7), (14, 14)]))
def test_a_patch_covers_as_much_of_the_cells_as_of_the_picture(seed: int, grid: tuple[int, int]) -> None:
    image = np.full((210, 210, 3), 128, np.uint8)
    pasted, inside = with_patch(image, np.random.default_rng(seed))
    assert inside.any() and np.array_equal(pasted[~inside], image[~inside])
    assert share_of_cells(inside, grid).mean() == pytest.approx(inside.mean(), abs=1e-9)
