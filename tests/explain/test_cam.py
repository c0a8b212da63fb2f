"""The formulas of class activation maps: by hand, by their papers, and the laws that hold for any map and gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from app.explain.cam import eigencam, gradcam, gradcam_plus_plus, hirescam, layercam, xgradcam

Formula = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _eigencam(activation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    return eigencam(activation)


FORMULAS: tuple[Formula, ...] = (gradcam, gradcam_plus_plus, hirescam, layercam, xgradcam, _eigencam)
each_formula = pytest.mark.parametrize("formula", FORMULAS)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_maps_are_what_one_computes_by_hand() -> None:
    activation = np.array([[[1, 2, 3]], [[10, 20, 30]]], dtype=np.float32)
    gradient = np.array([[[1, 2, 6]], [[-2, 0, -1]]], dtype=np.float32)  # channel means 3 and -1
    np.testing.assert_allclose(gradcam(activation, gradient), [[3 - 10, 6 - 20, 9 - 30]])
    np.testing.assert_allclose(hirescam(activation, gradient), [[1 - 20, 4, 18 - 30]])
    np.testing.assert_allclose(layercam(activation, gradient), [[1, 4, 18]])
    weights = (1 + 4 + 18) / 6, -(20 + 30) / 60
    np.testing.assert_allclose(xgradcam(activation, gradient), weights @ activation.reshape(2, 1, 3).swapaxes(0, 1))


def test_gradcam_adds_up_to_the_score_of_a_linear_head_on_the_mean() -> None:
    activation, weight = noise(8, 4, 5), noise(8, seed=1)
    gradient = np.broadcast_to((weight / 20)[:, None, None], activation.shape)
    assert gradcam(activation, gradient).sum() == pytest.approx(weight @ activation.mean(axis=(1, 2)), rel=1e-4)


def test_grad_cam_plus_plus_is_the_papers_where_maps_have_no_negative_values() -> None:
    activation, gradient = np.abs(noise(6, 3, 4)), noise(6, 3, 4, seed=1)
    expected = np.zeros((3, 4))
    for channel, slope in zip(activation, gradient, strict=True):
        weight = 0.0
        for g in slope.ravel().tolist():
            second, third = g**2, g**3  # derivatives of exp(score), over exp(score)
            weight += second / (2 * second + float(channel.sum()) * third) * max(g, 0.0)
        expected += weight * channel
    np.testing.assert_allclose(gradcam_plus_plus(activation, gradient), expected, rtol=1e-5)


def test_grad_cam_plus_plus_has_no_pole_where_maps_have_negative_values() -> None:
    activation, gradient = np.full((1, 2, 2), -1.0, np.float32), np.full((1, 2, 2), 0.5, np.float32)
    assert activation.sum() * gradient[0, 0, 0] == -2  # where the paper's alpha is infinite
    np.testing.assert_allclose(gradcam_plus_plus(activation, gradient), -np.ones((2, 2)))


def test_xgradcam_adds_up_to_what_hirescam_does() -> None:
    activation, gradient = np.abs(noise(6, 3, 4)), noise(6, 3, 4, seed=1)
    assert xgradcam(activation, gradient).sum() == pytest.approx(hirescam(activation, gradient).sum(), rel=1e-4)


def test_xgradcam_gives_a_channel_that_cancels_no_weight() -> None:
    activation = np.array([[[1, -1]], [[2, 1]]], dtype=np.float32)
    gradient = np.array([[[3, 1]], [[1, 1]]], dtype=np.float32)
    np.testing.assert_allclose(xgradcam(activation, gradient), [[2, 1]])


def test_eigencam_is_the_first_principal_component_with_large_cells_positive() -> None:
    for seed in range(5):
        activation = noise(20, 3, 4, seed=seed)
        activation[:, 1, 2] *= 10
        cells = activation.reshape(20, 12).T
        left, sizes, _ = np.linalg.svd(cells - cells.mean(axis=0), full_matrices=False)
        component = (left[:, 0] * sizes[0]).reshape(3, 4)
        expected = component * np.sign(component[1, 2])
        np.testing.assert_allclose(eigencam(activation), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("formula", [gradcam, hirescam, xgradcam])
def test_a_contrast_of_classes_is_the_difference_of_their_maps(formula: Formula) -> None:
    activation, benign, malignant = noise(6, 3, 4), noise(6, 3, 4, seed=1), noise(6, 3, 4, seed=2)
    contrast = formula(activation, malignant - 2 * benign)
    expected = formula(activation, malignant) - 2 * formula(activation, benign)
    np.testing.assert_allclose(contrast, expected, atol=1e-5 * np.abs(expected).max())


@each_formula
def test_the_order_of_channels_does_not_matter(formula: Formula) -> None:
    activation, gradient, order = noise(16, 3, 4), noise(16, 3, 4, seed=1), np.random.default_rng(2).permutation(16)
    heatmap = formula(activation, gradient)
    np.testing.assert_allclose(formula(activation[order], gradient[order]), heatmap, atol=1e-5 * np.abs(heatmap).max())


@each_formula
def test_mirrored_maps_and_gradients_give_the_mirrored_map(formula: Formula) -> None:
    activation, gradient = noise(16, 3, 4), noise(16, 3, 4, seed=1)
    heatmap = formula(activation, gradient)
    for axis in (-1, -2):
        mirrored = formula(np.flip(activation, axis), np.flip(gradient, axis))
        np.testing.assert_allclose(mirrored, np.flip(heatmap, axis), atol=1e-5 * np.abs(heatmap).max())


@each_formula
def test_a_batch_gives_what_its_singles_give(formula: Formula) -> None:
    activation, gradient = noise(2, 3, 6, 4, 5), noise(2, 3, 6, 4, 5, seed=1)
    batch = formula(activation, gradient)
    assert batch.shape == (2, 3, 4, 5)
    for index in np.ndindex(2, 3):
        np.testing.assert_allclose(batch[index], formula(activation[index], gradient[index]), rtol=1e-5, atol=1e-6)


@each_formula
def test_half_precision_maps_are_computed_with_in_more(formula: Formula) -> None:
    activation, gradient = noise(64, 7, 7).astype(np.float16), noise(64, 7, 7, seed=1).astype(np.float16)
    heatmap = formula(activation, gradient)
    assert heatmap.dtype == np.float32
    np.testing.assert_allclose(heatmap, formula(activation.astype(np.float32), gradient.astype(np.float32)), rtol=1e-4)


@each_formula
@pytest.mark.parametrize("value", [0.3, 0.0, -1.7])
def test_constant_maps_and_gradients_give_a_constant_map(formula: Formula, value: float) -> None:
    activation, gradient = np.full((5, 4, 6), value, np.float32), np.full((5, 4, 6), 0.01, np.float32)
    heatmap = formula(activation, gradient)
    assert np.isfinite(heatmap).all() and (heatmap == heatmap[0, 0]).all()
