"""Laws of the calibration maps: they keep the order, sum to one, and are blind to the order of the classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.trust.calibration import MAPS
from training.trust.calibration_fit import candidates, compare, cross_fitted, folds_of, simplest

seeds = st.integers(0, 2**32 - 1)
TWO = [*candidates(2)]
ALL = [(kind, 2) for kind in TWO] + [(kind, 5) for kind in candidates(5)]


def _drawn(seed: int, classes: int, count: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Overconfident logits and labels; with some seeds the classes are separated, with others the model is blind."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    signal = rng.choice([-1.0, 0.0, 1.0, 30.0])
    return rng.normal(0, 2, (count, classes)) + signal * np.eye(classes)[labels], labels


@pytest.mark.parametrize(("kind", "classes"), ALL)
@settings(max_examples=20, deadline=None)
@given(seeds)
def test_a_map_is_made_of_finite_probabilities_that_sum_to_one(kind: str, classes: int, seed: int) -> None:
    fitted = candidates(classes)[kind](*_drawn(seed, classes))
    probabilities = fitted.probabilities(np.random.default_rng(seed).normal(0, 20, (50, classes)))
    assert np.isfinite(probabilities).all() and (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    again = MAPS[kind].of(fitted.parameters())
    assert np.array_equal(again.probabilities(np.eye(classes)), fitted.probabilities(np.eye(classes)))


@pytest.mark.parametrize("kind", TWO)
@settings(max_examples=20, deadline=None)
@given(seeds)
def test_a_map_of_two_classes_is_monotone(kind: str, seed: int) -> None:
    fitted = candidates(2)[kind](*_drawn(seed, 2))
    logits = np.random.default_rng(seed).normal(0, 20, (200, 2))
    in_order = fitted.probabilities(logits)[np.argsort(logits[:, 1] - logits[:, 0]), 1]
    assert (np.diff(in_order) >= -1e-12).all()  # but for rounding


@pytest.mark.parametrize("kind", [*candidates(5)])
@settings(max_examples=20, deadline=None)
@given(seeds)
def test_a_higher_logit_of_a_class_never_lowers_its_probability(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fitted, logits, index = candidates(5)[kind](*_drawn(seed, 5)), rng.normal(0, 5, (50, 5)), int(rng.integers(5))
    before = fitted.probabilities(logits)[:, index]
    logits[:, index] += rng.exponential(2, 50)
    assert (fitted.probabilities(logits)[:, index] >= before).all()


@pytest.mark.parametrize(("kind", "classes"), ALL)
@settings(max_examples=15, deadline=None)
@given(seeds)
def test_permuted_classes_permute_the_probabilities(kind: str, classes: int, seed: int) -> None:
    logits, labels = _drawn(seed, classes)
    fresh = np.random.default_rng(seed).normal(0, 3, (20, classes))
    order = np.arange(classes)[::-1]
    plain = candidates(classes)[kind](logits, labels).probabilities(fresh)
    permuted = candidates(classes)[kind](logits[:, order], order[labels]).probabilities(fresh[:, order])
    np.testing.assert_allclose(permuted, plain[:, order], atol=1e-5)


def test_an_overconfident_model_is_corrected_and_the_simplest_good_map_is_taken() -> None:
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 2, 3000)
    labels = (rng.random(3000) < 1 / (1 + np.exp(-margins))).astype(int)
    logits = np.stack([np.zeros(3000), 3 * margins], axis=1)
    groups = [str(index // 2) for index in range(3000)]
    fold = folds_of(groups, labels, 5, seed=0)
    assert all(len({*pair}) == 1 for pair in fold.reshape(-1, 2).tolist())
    assert simplest(compare(logits, labels, groups, fold)) == "temperature"
    # An offset that no temperature corrects needs the next map.
    assert simplest(compare(logits + np.array([0, 4]), labels, groups, fold)) == "platt"


@pytest.mark.parametrize("kind", TWO)
def test_a_picture_is_calibrated_by_others_alone(kind: str) -> None:
    logits, labels = _drawn(3, 2)
    fold, changed = np.arange(120) % 4, labels.copy()
    changed[fold == 1] = 1 - changed[fold == 1]
    fit = candidates(2)[kind]
    before, after = (cross_fitted(fit, logits, given, fold) for given in (labels, changed))
    assert np.array_equal(before[fold == 1], after[fold == 1]) and not np.array_equal(before, after)
