"""Temperature and threshold are those that independent implementations find."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_curve
from torch.nn.functional import cross_entropy

from app.shapes import Float, Int
from training.metrics.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    fit_temperature,
    mean_nll,
    softmax,
    youden_threshold,
)


def scores(classes: int, sharpness: float, seed: int) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, " n"]]:
    """Logits that are right more often than not, and `sharpness` times too large."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, 300)
    logits = rng.normal(size=(300, classes)) + 1.2 * np.eye(classes)[labels] + rng.normal(size=classes)
    return sharpness * logits, labels


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 6.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_for_two_classes_temperature_is_a_logistic_regression_of_the_difference(sharpness: float, seed: int) -> None:
    logits, labels = scores(2, sharpness, seed)
    fitted = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(logits[:, 1:] - logits[:, :1], labels)
    assert fit_temperature(logits, labels) == pytest.approx(1 / fitted.coef_[0, 0], rel=1e-4)


def test_for_five_classes_no_temperature_has_a_smaller_loss() -> None:
    logits, labels = (torch.from_numpy(array) for array in scores(5, 3.0, 2))
    found = fit_temperature(logits.numpy(), labels.numpy())
    others = [t for t in np.geomspace(MIN_TEMPERATURE, MAX_TEMPERATURE, 2000).tolist() if abs(t - found) > 1e-6]
    losses = [cross_entropy(logits / temperature, labels).item() for temperature in [found, *others]]
    assert losses[0] == min(losses)


def test_the_loss_is_the_one_of_sklearn() -> None:
    logits, labels = scores(5, 2.0, 3)
    assert mean_nll(logits, labels) == pytest.approx(log_loss(labels, softmax(logits)), rel=1e-9)


def test_huge_logits_give_finite_probabilities_and_losses() -> None:
    logits = np.array([[1e5, 0.0], [0.0, 1e5]])
    np.testing.assert_array_equal(softmax(logits), np.eye(2))
    assert mean_nll(logits, np.array([0, 0])) == 5e4


@pytest.mark.parametrize("sign", [1, -1])
def test_temperature_stays_within_its_bounds_where_no_best_one_exists(sign: int) -> None:
    """Classes told apart without an error, or always mistaken."""
    labels = np.array([0, 1, 0, 1])
    bound = MIN_TEMPERATURE if sign == 1 else MAX_TEMPERATURE
    assert fit_temperature(sign * np.eye(2)[labels], labels) == pytest.approx(bound)


@pytest.mark.parametrize("decimals", [1, 2, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_threshold_has_more_sensitivity_and_specificity(seed: int, decimals: int) -> None:
    """With many ties (one decimal) and without."""
    rng = np.random.default_rng(seed)
    positive = rng.random(200) < 0.3
    probability = np.round(np.clip(rng.normal(0.4 + 0.15 * positive, 0.15), 0, 1), decimals)
    false_rate, true_rate, _ = roc_curve(positive, probability)
    answer = probability >= youden_threshold(probability, positive)
    found = answer[positive].mean() - answer[~positive].mean()
    assert found == pytest.approx((true_rate - false_rate).max(), abs=1e-12)


def test_a_threshold_lies_between_the_probabilities_that_it_separates() -> None:
    probability, positive = np.array([0.1, 0.3, 0.5, 0.9]), np.array([False, False, True, True])
    assert youden_threshold(probability, positive) == pytest.approx(0.4)


def test_equal_probabilities_have_no_threshold() -> None:
    with pytest.raises(ValueError, match="no threshold tells them apart"):
        youden_threshold(np.full(4, 0.5), np.array([True, False, True, False]))
