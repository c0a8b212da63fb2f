"""The laws that class activation maps obey, and the fusion of two branches' maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.explain.cam import METHODS, UNITS, branch_shares, fuse, gradcam, resize_keeping_sum
from app.models.feature_maps import Branch

GRID = st.tuples(st.integers(1, 20), st.integers(1, 20))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_gradcam_of_a_tiny_map_is_what_one_computes_by_hand() -> None:
    activation = np.array([[[1, 2, 3]], [[10, 20, 30]]], dtype=np.float32)
    gradient = np.array([[[1, 2, 6]], [[-2, 0, -1]]], dtype=np.float32)  # channel means 3 and -1
    np.testing.assert_allclose(gradcam(activation, gradient), [[3 - 10, 6 - 20, 9 - 30]])


def test_gradcam_adds_up_to_the_score_of_a_linear_head_on_the_mean() -> None:
    activation, weight = noise(8, 4, 5), noise(8, seed=1)
    gradient = np.broadcast_to((weight / 20)[:, None, None], activation.shape)
    assert gradcam(activation, gradient).sum() == pytest.approx(weight @ activation.mean(axis=(1, 2)), rel=1e-4)


def test_gradcam_is_linear_in_the_gradient_so_a_contrast_of_classes_is_a_difference_of_maps() -> None:
    activation, benign, malignant = noise(6, 3, 4), noise(6, 3, 4, seed=1), noise(6, 3, 4, seed=2)
    contrast = gradcam(activation, malignant - 2 * benign)
    np.testing.assert_allclose(
        contrast, gradcam(activation, malignant) - 2 * gradcam(activation, benign), rtol=1e-4, atol=1e-5
    )


def test_gradcam_does_not_depend_on_the_order_of_channels() -> None:
    activation, gradient, order = noise(16, 3, 4), noise(16, 3, 4, seed=1), np.random.default_rng(2).permutation(16)
    np.testing.assert_allclose(
        gradcam(activation[order], gradient[order]), gradcam(activation, gradient), rtol=1e-4, atol=1e-5
    )


def test_gradcam_of_a_batch_is_the_batch_of_its_singles() -> None:
    activation, gradient = noise(2, 3, 6, 4, 5), noise(2, 3, 6, 4, 5, seed=1)
    batch = gradcam(activation, gradient)
    assert batch.shape == (2, 3, 4, 5)
    for index in np.ndindex(2, 3):
        np.testing.assert_allclose(batch[index], gradcam(activation[index], gradient[index]), rtol=1e-5, atol=1e-6)


def test_gradcam_of_half_precision_maps_is_computed_in_single_precision() -> None:
    activation, gradient = noise(64, 7, 7).astype(np.float16), noise(64, 7, 7, seed=1).astype(np.float16)
    heatmap = gradcam(activation, gradient)
    assert heatmap.dtype == np.float32
    np.testing.assert_allclose(heatmap, gradcam(activation.astype(np.float32), gradient.astype(np.float32)), rtol=1e-5)


def test_every_method_has_a_unit() -> None:
    assert METHODS.keys() == UNITS.keys()


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
    np.testing.assert_array_equal(fuse({"cnn": cnn, "swin": swin}), cnn + swin)


def test_fusing_takes_the_finer_grid_of_each_axis_and_keeps_all_the_evidence() -> None:
    cnn, swin = noise(4, 10), noise(8, 5, seed=1)
    fused = fuse({"cnn": cnn, "swin": swin})
    assert fused.shape == (8, 10)
    assert fused.sum() == pytest.approx(cnn.sum() + swin.sum(), rel=1e-4)


def test_shares_follow_the_magnitudes_and_sums_keep_their_sign() -> None:
    shares = branch_shares({"cnn": np.array([[3.0, -6.0]]), "swin": np.array([[1.0]])})
    assert (shares["cnn"].share, shares["cnn"].signed_sum) == pytest.approx((0.9, -3.0))
    assert (shares["swin"].share, shares["swin"].signed_sum) == pytest.approx((0.1, 1.0))


def test_shares_add_up_to_one_also_for_unequal_grids() -> None:
    shares = branch_shares({"cnn": noise(7, 7), "swin": noise(14, 9, seed=1)})
    assert sum(share.share for share in shares.values()) == pytest.approx(1, abs=1e-12)


def test_maps_of_zeros_have_no_shares() -> None:
    nothing: dict[Branch, np.ndarray] = {"cnn": np.zeros((2, 2)), "swin": np.zeros((3, 3))}
    assert [share.share for share in branch_shares(nothing).values()] == [0, 0]
