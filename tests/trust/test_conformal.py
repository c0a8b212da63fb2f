"""Laws of the prediction sets: nested, covering class by class, and blind to the order of the classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.trust.conformal import ImpossibleCoverage, fit_sets, one_per_group, scores_of
from training.metrics.coverage import coverage_interval

classes = st.sampled_from((2, 3, 7, 12))
seeds = st.integers(0, 2**32 - 1)


def _drawn(seed: int, classes: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits that say something about their labels, and the labels, of which every class has some."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    return rng.normal(0, 1.5, (count, classes)) + 2 * np.eye(classes)[labels], labels


@settings(max_examples=30, deadline=None)
@given(seeds, classes, st.floats(0.5, 0.9), st.floats(0.5, 0.9))
def test_a_set_of_higher_coverage_contains_that_of_lower_coverage(
    seed: int, classes: int, one: float, other: float
) -> None:
    sets = fit_sets(*_drawn(seed, classes, 20 * classes))
    logits, _ = _drawn(seed + 1, classes, 50)
    low, high = sorted((one, other))
    assert (sets.contains(logits, low) <= sets.contains(logits, high)).all()


@settings(max_examples=30, deadline=None)
@given(seeds, classes)
def test_permuted_classes_permute_the_sets(seed: int, classes: int) -> None:
    logits, labels = _drawn(seed, classes, 20 * classes)
    fresh, _ = _drawn(seed + 1, classes, 50)
    order = np.random.default_rng(seed).permutation(classes)
    place = np.argsort(order)
    permuted = fit_sets(logits[:, order], place[labels])
    assert np.array_equal(
        permuted.contains(fresh[:, order], 0.8), fit_sets(logits, labels).contains(fresh, 0.8)[:, order]
    )


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from((3, 7, 100)), st.floats(0.5, 0.9))
def test_of_more_than_two_classes_the_most_probable_is_in_every_set(seed: int, classes: int, coverage: float) -> None:
    sets = fit_sets(*_drawn(seed, classes, 20 * classes))
    logits, _ = _drawn(seed + 1, classes, 50)
    logits[0] = 100 * np.eye(classes)[1]  # as sure as can be
    contained = sets.contains(logits, coverage)
    assert contained[np.arange(50), logits.argmax(axis=1)].all()


def test_equal_classes_are_in_a_set_together() -> None:
    scores = scores_of(np.log([[0.4, 0.4, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1]]))
    np.testing.assert_allclose(scores, [[0, 0, 0.8, 0.8], [0, 0.7, 0.7, 0.7]], atol=1e-9)


def test_a_group_has_the_same_picture_among_fewer_groups() -> None:
    groups = [f"g{number % 7}" for number in range(50)]
    kept = [place for place in range(50) if groups[place] != "g3"]
    alone = [kept[place] for place in one_per_group([groups[place] for place in kept], 0)]
    assert alone == [place for place in one_per_group(groups, 0) if groups[place] != "g3"]


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("coverage", [0.6, 0.9])
def test_each_class_is_covered_as_often_as_chance_allows(classes: int, coverage: float) -> None:
    inside = np.zeros(classes)
    for seed in range(200):
        sets = fit_sets(*_drawn(2 * seed, classes, 60 * classes))
        logits, labels = _drawn(2 * seed + 1, classes, 40 * classes)
        covered = sets.contains(logits, coverage)
        low, high = coverage_interval(60, 40, coverage)
        for index in range(classes):
            found = covered[labels == index, index].mean()
            # With more classes the most probable one is in every set, which may cover more than was asked for.
            inside[index] += low <= found and (found <= high or classes > 2)
    assert (inside / 200 >= 0.92).all()  # at least 95 % of 200, less four standard errors of less than 1.6 % each


@pytest.mark.parametrize(("fewest", "largest"), [(4, 0.8), (9, 0.9), (19, 0.95)])
def test_the_promise_that_a_class_is_too_small_for_is_refused_with_the_largest_possible(
    fewest: int, largest: float
) -> None:
    rng = np.random.default_rng(0)
    sets = fit_sets(rng.normal(size=(fewest + 50, 2)), np.array([0] * fewest + [1] * 50))
    assert sets.largest_coverage == pytest.approx(largest)
    sets.thresholds(largest)
    with pytest.raises(ImpossibleCoverage) as refused:
        sets.thresholds(largest + 0.01)
    assert refused.value.largest == pytest.approx(largest)


def test_a_group_gives_one_picture() -> None:
    groups = ["a", "b", "a", "c", "b", "a"]
    assert sorted(groups[index] for index in one_per_group(groups, 0)) == ["a", "b", "c"]
