"""The two branches' heatmaps as one: sums that are kept, shares that add up, and comparators that say what they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.explain.merge import MergeRule, branch_shares, merge_normalised, merge_sum, resize_keeping_sum
from app.models.feature_maps import Branch

GRID = st.tuples(st.integers(1, 20), st.integers(1, 20))
COMPARATORS: tuple[MergeRule, ...] = ("mean", "max", "product")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(deadline=None)
@given(GRID, GRID)
def test_resize_keeps_the_sum_and_makes_no_evidence_of_the_other_sign(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    heatmap = np.abs(noise(*old))
    resized = resize_keeping_sum(heatmap, new)
    assert resized.shape == new and resized.dtype == np.float32
    assert resized.sum(dtype=np.float64) == pytest.approx(heatmap.sum(dtype=np.float64), rel=1e-6)
    assert (resized >= 0).all()


@settings(deadline=None)
@given(GRID, GRID)
def test_resize_of_a_mirrored_map_is_the_mirrored_resize(old: tuple[int, int], new: tuple[int, int]) -> None:
    heatmap = noise(*old)
    resized = resize_keeping_sum(heatmap, new)
    np.testing.assert_allclose(resize_keeping_sum(heatmap[::-1], new), resized[::-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(resize_keeping_sum(heatmap[:, ::-1], new), resized[:, ::-1], rtol=1e-5, atol=1e-6)


def test_resize_to_the_same_grid_changes_nothing() -> None:
    heatmap = noise(2, 7, 5)
    np.testing.assert_array_equal(resize_keeping_sum(heatmap, (7, 5)), heatmap)


def test_resize_deals_a_cell_out_by_overlapping_area() -> None:
    heatmap = np.array([[6, 12, 24]], dtype=np.float32)
    np.testing.assert_allclose(resize_keeping_sum(heatmap, (1, 2)), [[6 + 6, 6 + 24]])
    np.testing.assert_allclose(resize_keeping_sum(heatmap, (2, 6)), [[1.5, 1.5, 3, 3, 6, 6]] * 2)


def test_fusing_equal_grids_adds_the_maps() -> None:
    cnn, swin = noise(7, 7), noise(7, 7, seed=1)
    np.testing.assert_array_equal(merge_sum({"cnn": cnn, "swin": swin}), cnn + swin)


def test_fusing_takes_the_finer_grid_of_each_axis_and_keeps_all_the_evidence() -> None:
    cnn, swin = noise(4, 10), noise(8, 5, seed=1)
    fused = merge_sum({"cnn": cnn, "swin": swin})
    assert fused.shape == (8, 10)
    assert fused.sum() == pytest.approx(cnn.sum() + swin.sum(), rel=1e-4)


def test_shares_follow_the_magnitudes_and_sums_keep_their_sign() -> None:
    shares = branch_shares({"cnn": np.array([[3.0, -6.0]]), "swin": np.array([[1.0]])})
    assert (shares["cnn"].share, shares["cnn"].signed_sum) == pytest.approx((0.9, -3.0))
    assert (shares["swin"].share, shares["swin"].signed_sum) == pytest.approx((0.1, 1.0))


def test_shares_add_up_to_one_also_for_unequal_grids() -> None:
    shares = branch_shares({"cnn": noise(7, 7), "swin": noise(14, 9, seed=1)})
    assert sum(share.share or 0.0 for share in shares.values()) == pytest.approx(1, abs=1e-12)


def test_maps_of_zeros_have_no_shares() -> None:
    nothing: dict[Branch, np.ndarray] = {"cnn": np.zeros((2, 2)), "swin": np.zeros((3, 3))}
    assert [share.share for share in branch_shares(nothing).values()] == [0, 0]


@pytest.mark.parametrize("how", COMPARATORS)
@settings(deadline=None)
@given(cnn=GRID, swin=GRID, scale=st.floats(1e-3, 1e3))
def test_comparators_do_not_see_how_large_a_map_is(
    how: MergeRule, cnn: tuple[int, int], swin: tuple[int, int], scale: float
) -> None:
    maps: dict[Branch, np.ndarray] = {"cnn": noise(*cnn), "swin": noise(*swin, seed=1)}
    fused = merge_normalised(maps, how)
    assert fused.shape == (max(cnn[0], swin[0]), max(cnn[1], swin[1])) and fused.dtype == np.float32
    assert (fused >= 0).all() and (fused <= 1 + 1e-6).all()
    scaled = merge_normalised({"cnn": np.float32(scale) * maps["cnn"], "swin": maps["swin"]}, how)
    np.testing.assert_allclose(scaled, fused, rtol=1e-4, atol=1e-6)


def test_comparators_join_maps_cut_off_at_zero_and_scaled_to_their_maximum() -> None:
    maps: dict[Branch, np.ndarray] = {"cnn": np.array([[2.0, 1.0]]), "swin": np.array([[1.0, -3.0], [4.0, 3.0]])}
    np.testing.assert_allclose(merge_normalised(maps, "mean"), [[0.625, 0.25], [1.0, 0.625]])
    np.testing.assert_allclose(merge_normalised(maps, "max"), [[1.0, 0.5], [1.0, 0.75]])
    np.testing.assert_allclose(merge_normalised(maps, "product"), [[0.25, 0.0], [1.0, 0.375]])


@pytest.mark.parametrize("how", COMPARATORS)
def test_comparators_of_a_map_without_positive_values_take_it_as_zero(how: MergeRule) -> None:
    silent, loud = -np.ones((2, 2), np.float32), np.array([[0.5, 1], [0, -1]], np.float32)
    expected = {"mean": [[0.25, 0.5], [0, 0]], "max": [[0.5, 1], [0, 0]], "product": [[0, 0], [0, 0]]}[how]
    np.testing.assert_array_equal(merge_normalised({"cnn": silent, "swin": loud}, how), expected)
    assert not merge_normalised({"cnn": silent, "swin": silent}, how).any()


def test_a_sum_is_no_comparator() -> None:
    with pytest.raises(ValueError, match="not merged by sum"):
        merge_normalised({"cnn": noise(2, 2)}, "sum")
