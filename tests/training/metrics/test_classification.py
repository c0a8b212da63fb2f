"""Figures are scikit-learn's, or those of a plain count; intervals follow the groups."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    log_loss,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from app.shapes import Bool, Float, Int
from training.evaluation.against import LOWER_IS_BETTER
from training.metrics.classification import (
    DecisionRule,
    Estimate,
    Metric,
    answer_metrics,
    auroc,
    average_precision,
    bootstrap,
    calibration_error,
    classification_metrics,
    confidence,
    paired_difference,
    ranking_metrics,
    reliability,
    resamples,
    risk_coverage,
    sensitivity_at,
)

Scored = tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]


SELECTIVE = {"risk_coverage_area", "error_at_coverage_0.8"}  # scikit-learn has none: see the test of risk and coverage
# These depend on the number of pictures, not only on their shares.
NOT_OF_COPIES = {"sensitivity_at_specificity_0.95", "risk_coverage_area"}


def answered(classes: int, pictures: int, seed: int) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, " n"]]:
    """Probabilities that are right more often than not, and every class among the labels."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, pictures - classes)])
    odds = np.exp(rng.normal(size=(pictures, classes)) + 1.5 * np.eye(classes)[labels])
    return odds / odds.sum(axis=1, keepdims=True), labels


@st.composite
def scored(draw: st.DrawFn) -> Scored:
    """Scores with many ties, of a few pictures of both sides."""
    truth = draw(st.lists(st.booleans(), min_size=2, max_size=40).filter(lambda sides: len(set(sides)) == 2))
    steps = draw(st.lists(st.integers(0, 8), min_size=len(truth), max_size=len(truth)))
    return np.array(steps) / 8, np.array(truth)


@given(scored())
def test_auroc_and_average_precision_are_sklearns_with_ties_too(pictures: Scored) -> None:
    scores, positive = pictures
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert average_precision(scores, positive) == pytest.approx(average_precision_score(positive, scores), abs=1e-12)


@given(scored(), st.sampled_from([0.0, 0.5, 0.75, 0.8, 0.9, 0.95, 1.0]))
def test_sensitivity_at_a_specificity_is_the_best_of_all_thresholds(pictures: Scored, specificity: float) -> None:
    scores, positive = pictures
    possible = [
        (scores[positive] >= threshold).mean()
        for threshold in [*scores, np.inf]
        if (scores[~positive] < threshold).mean() >= specificity - 1e-12
    ]
    assert sensitivity_at(scores, positive, specificity) == max(possible)


def test_nine_of_ten_negatives_are_a_specificity_of_nine_tenths() -> None:
    """1 - 0.9 is less than 0.1 in floating point: one false alarm in ten must be allowed all the same."""
    scores, positive = np.array([*range(10), 8.5]), np.array([False] * 10 + [True])
    assert sensitivity_at(scores, positive, 0.9) == 1
    assert sensitivity_at(scores, positive, 0.95) == 0


@pytest.mark.parametrize("measure", [auroc, average_precision, partial(sensitivity_at, specificity=0.9)])
@pytest.mark.parametrize("side", [True, False])
def test_one_side_alone_has_no_figure(measure: partial[float], side: bool) -> None:
    with pytest.raises(ValueError, match="pictures both of the class and of the rest"):
        measure(np.array([0.1, 0.9]), np.array([side, side]))


@pytest.mark.parametrize("positive", [0, 1])
def test_for_two_classes_figures_are_sklearns(positive: int) -> None:
    probabilities, labels = answered(2, 300, seed=positive)
    truth, score = labels == positive, probabilities[:, positive]
    answer = score >= 0.3
    values = {
        name: metric(probabilities, labels)
        for name, metric in classification_metrics(2, DecisionRule(positive, 0.3)).items()
        if name not in SELECTIVE
    }
    false_rate, true_rate, _ = roc_curve(truth, score, drop_intermediate=False)
    assert values == pytest.approx(
        {
            "auroc": roc_auc_score(truth, score),
            "average_precision": average_precision_score(truth, score),
            "sensitivity_at_specificity_0.9": true_rate[1 - false_rate >= 0.9].max(),
            "sensitivity_at_specificity_0.95": true_rate[1 - false_rate >= 0.95].max(),
            "sensitivity": recall_score(truth, answer),
            "specificity": recall_score(truth, answer, pos_label=False),
            "accuracy": accuracy_score(truth, answer),
            "balanced_accuracy": balanced_accuracy_score(truth, answer),
            "brier": brier_score_loss(truth, score),
            "ece": binned_gap(score, truth),
            "nll": log_loss(labels, probabilities),
        },
        abs=1e-12,
    )


def test_for_five_classes_figures_are_sklearns_macro_means() -> None:
    probabilities, labels = answered(5, 300, seed=2)
    answer, one_hot = probabilities.argmax(axis=1), np.eye(5)[labels]
    values = {
        name: metric(probabilities, labels)
        for name, metric in classification_metrics(5, DecisionRule()).items()
        if name not in SELECTIVE
    }
    at = {s: np.mean([sensitivity_at(probabilities[:, k], labels == k, s) for k in range(5)]) for s in (0.9, 0.95)}
    assert values == pytest.approx(
        {
            "auroc": roc_auc_score(labels, probabilities, multi_class="ovr"),
            "average_precision": average_precision_score(one_hot, probabilities),
            "sensitivity_at_specificity_0.9": at[0.9],
            "sensitivity_at_specificity_0.95": at[0.95],
            "accuracy": accuracy_score(labels, answer),
            "balanced_accuracy": balanced_accuracy_score(labels, answer),
            "brier": brier_score_loss(labels, probabilities),
            "ece": binned_gap(probabilities.max(axis=1), answer == labels),
            "nll": log_loss(labels, probabilities),
        },
        abs=1e-12,
    )


def test_figures_of_one_class_of_five_are_those_of_the_class_against_the_rest() -> None:
    probabilities, labels = answered(5, 300, seed=3)
    of_class = ranking_metrics(3) | answer_metrics(3, DecisionRule())
    values = {name: metric(probabilities, labels) for name, metric in of_class.items()}
    answer = probabilities.argmax(axis=1) == 3
    assert values["auroc"] == pytest.approx(roc_auc_score(labels == 3, probabilities[:, 3]))
    assert values["sensitivity"] == pytest.approx(recall_score(labels == 3, answer))
    assert values["specificity"] == pytest.approx(recall_score(labels == 3, answer, pos_label=False))


def test_a_certain_mistake_has_a_finite_loss() -> None:
    probabilities, labels = np.eye(2), np.array([0, 0])
    assert classification_metrics(2, DecisionRule(1))["nll"](probabilities, labels) == pytest.approx(
        log_loss(labels, probabilities, labels=[0, 1])
    )


def binned_gap(probability: Float[np.ndarray, " n"], outcome: Bool[np.ndarray, " n"]) -> float:
    """The expected calibration error as Guo et al. 2017 write it, bin by bin."""
    total = 0.0
    for bin_number in range(15):
        inside = (probability > bin_number / 15) & (probability <= (bin_number + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(probability[inside].mean() - outcome[inside].mean())
    return float(total)


def test_calibration_error_of_a_case_by_hand() -> None:
    """Two bins: four pictures at 0.9 of which two are true, and six at 0.2 of which none is."""
    probability = np.array([0.9] * 4 + [0.2] * 6)
    outcome = np.array([True, True, False, False] + [False] * 6)
    assert calibration_error(probability, outcome, bins=2) == pytest.approx(0.4 * 0.4 + 0.6 * 0.2)
    values = reliability(probability, outcome, bins=2)
    assert (values.frequency.tolist(), values.pictures.tolist()) == ([0.0, 0.5], [6, 4])
    np.testing.assert_allclose(values.mean_probability, [0.2, 0.9])


def test_a_certain_probability_and_a_bins_own_edge_have_a_bin() -> None:
    values = reliability(np.array([0.0, 0.5, 1.0]), np.array([False, False, True]), bins=2)
    assert values.pictures.tolist() == [2, 1]


def test_reliability_is_that_of_the_positive_class_or_of_the_answer() -> None:
    probabilities, labels = np.array([[0.8, 0.2], [0.3, 0.7]]), np.array([1, 1])
    of_positive, of_top = (confidence(probabilities, labels, rule) for rule in (DecisionRule(1, 0.5), DecisionRule()))
    assert (of_positive[0].tolist(), of_positive[1].tolist()) == ([0.2, 0.7], [True, True])
    assert (of_top[0].tolist(), of_top[1].tolist()) == ([0.8, 0.7], [False, True])


def test_a_threshold_decides_for_the_positive_class() -> None:
    probabilities = np.array([[0.75, 0.25], [0.76, 0.24], [0.1, 0.9]])
    assert DecisionRule(1, 0.25).answers(probabilities).tolist() == [1, 0, 1]
    assert DecisionRule(0, 0.75).answers(probabilities).tolist() == [0, 0, 1]
    assert DecisionRule(1).answers(probabilities).tolist() == [0, 0, 1]


def auroc_of(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """The second class's."""
    return auroc(probabilities[:, 1], labels == 1)


@pytest.mark.parametrize("name", sorted(set(classification_metrics(2, DecisionRule(1, 0.4))) - NOT_OF_COPIES))
def test_copies_within_a_group_add_no_certainty(name: str) -> None:
    """The interval stays as with one picture each, and is much wider than where copies pass for new pictures."""
    metric = classification_metrics(2, DecisionRule(1, 0.4))[name]
    probabilities, labels = answered(2, 60, seed=4)
    copied = probabilities.repeat(6, axis=0), labels.repeat(6)
    names = [f"lesion {i}" for i in range(60)]
    single = bootstrap(metric, probabilities, labels, names, repeats=300)
    grouped = bootstrap(metric, *copied, list(np.repeat(names, 6)), repeats=300)
    ungrouped = bootstrap(metric, *copied, [str(i) for i in range(360)], repeats=300)
    assert width(grouped) > 1.5 * width(ungrouped)
    assert (grouped.value, grouped.low, grouped.high) == pytest.approx((single.value, single.low, single.high))


def width(estimate: Estimate) -> float:
    """Of the interval."""
    return estimate.high - estimate.low


def test_a_perfect_classifier_is_certain() -> None:
    labels = np.array([0, 1] * 20)
    groups = [str(i) for i in range(40)]
    perfect = {
        name: bootstrap(f, np.eye(2)[labels], labels, groups, 100)
        for name, f in classification_metrics(2, DecisionRule(1, 0.5)).items()
    }
    for name, estimate in perfect.items():
        best = 0 if name in LOWER_IS_BETTER else 1
        assert (estimate.value, estimate.low, estimate.high) == (best, best, best)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Accuracy of answers that are right in 70 % of cases, over 80 data sets."""
    rng, held = np.random.default_rng(5), 0
    accuracy, groups = classification_metrics(2, DecisionRule(1, 0.5))["accuracy"], [str(i) for i in range(100)]
    for _ in range(80):
        labels = rng.integers(0, 2, 100)
        right = np.where(rng.random(100) < 0.7, labels, 1 - labels)
        estimate = bootstrap(accuracy, np.eye(2)[right], labels, groups, repeats=100)
        held += estimate.low <= 0.7 <= estimate.high
    assert 0.88 <= held / 80 <= 0.99


@pytest.mark.parametrize("rule", [DecisionRule(), DecisionRule(1), DecisionRule(1, 0.3), DecisionRule(0, 0.9)])
def test_risk_and_coverage_are_the_errors_of_the_surest_in_any_order_of_ties(rule: DecisionRule) -> None:
    probabilities, labels = answered(2, 60, seed=11)
    probabilities = np.round(probabilities, 1)  # many ties, and answers of probability 0 and 1
    positive, threshold = rule.positive or 0, 0.5 if rule.threshold is None else rule.threshold

    def distance(row: np.ndarray) -> float:
        odds = [min(max(p, 1e-12), 1 - 1e-12) for p in (row[positive], threshold)]
        return round(float(abs(np.log(odds[0] / (1 - odds[0])) - np.log(odds[1] / (1 - odds[1])))), 6)

    wrong, rng, risks = rule.answers(probabilities) != labels, np.random.default_rng(0), []
    for _ in range(3000):  # a random order of ties
        shuffled = rng.permutation(60)
        order = sorted(shuffled.tolist(), key=lambda index: -distance(probabilities[index]))
        risks.append(np.cumsum(wrong[order]) / np.arange(1, 61))
    found = risk_coverage(probabilities, labels, rule)
    np.testing.assert_allclose(found, np.mean(risks, axis=0), atol=0.04)
    assert found[-1] == pytest.approx(wrong.mean())
    metrics = classification_metrics(2, rule)
    assert metrics["risk_coverage_area"](probabilities, labels) == pytest.approx(found.mean())
    assert metrics["error_at_coverage_0.8"](probabilities, labels) == pytest.approx(found[47])


def test_a_model_does_not_differ_from_itself() -> None:
    probabilities, labels = answered(2, 50, seed=6)
    groups = [str(i // 2) for i in range(50)]
    assert paired_difference(auroc_of, probabilities, probabilities, labels, groups, 100) == Estimate(0.0, 0.0, 0.0)


def test_a_paired_difference_is_first_less_second_and_surer_than_two_intervals() -> None:
    """Two models that nearly agree: their difference is known far better than either figure."""
    a, labels = answered(2, 120, seed=7)
    b = 0.98 * a + 0.02 * answered(2, 120, seed=8)[0]
    groups = [str(i) for i in range(120)]
    difference = paired_difference(auroc_of, a, b, labels, groups, 300)
    alone = [bootstrap(auroc_of, model, labels, groups, 300) for model in (a, b)]
    assert difference.value == alone[0].value - alone[1].value
    assert width(difference) < 0.5 * min(width(estimate) for estimate in alone)
    swapped = paired_difference(auroc_of, b, a, labels, groups, 300)
    assert (swapped.value, swapped.low, swapped.high) == pytest.approx(
        (-difference.value, -difference.high, -difference.low)
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_resamples_hold_whole_groups_and_every_class(seed: int, size: int) -> None:
    group_of = np.arange(24) // size
    labels = np.arange(24) % 2 if size > 1 else np.array([0] * 22 + [1] * 2)
    drawn = list(resamples(labels, [f"g{group}" for group in group_of], repeats=20, seed=seed))
    assert len(drawn) == 20
    for rows in drawn:
        copies = np.bincount(rows, minlength=24)
        assert all(len(set(copies[group_of == group])) == 1 for group in range(24 // size))
        assert set(labels[rows]) == {0, 1}


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    probabilities, labels = answered(2, 50, seed=9)
    groups = [str(i) for i in range(50)]
    first, again, other = (bootstrap(auroc_of, probabilities, labels, groups, 100, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_groups_too_few_for_the_classes_are_refused() -> None:
    """Of twelve groups of one picture and one class each, a resample hardly ever holds all."""
    accuracy: Metric = classification_metrics(12, DecisionRule())["accuracy"]
    with pytest.raises(ValueError, match="12 groups are too few to resample 12 classes"):
        bootstrap(accuracy, np.eye(12), np.arange(12), [str(i) for i in range(12)], 20)
    with pytest.raises(ValueError, match="3 groups are given for 12 pictures"):
        bootstrap(accuracy, np.eye(12), np.arange(12), ["a", "b", "c"], 20)
