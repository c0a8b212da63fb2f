"""Metrics of a classifier on labelled pictures, with bootstrap confidence intervals.

A metric is a function of probabilities and labels. All metrics are plain numpy, because a bootstrap calls each of them
a thousand times, and scikit-learn's input checks take milliseconds per call. Tests compare them with scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from app.shapes import Bool, Float, Int

Metric = Callable[[Float[np.ndarray, "n k"], Int[np.ndarray, " n"]], float]
BinaryMetric = Callable[[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]], float]

SPECIFICITIES = (0.9, 0.95)
BINS = 15
COVERAGE = 0.8  # of the pictures, of which `error_at_coverage_0.8` counts the errors
_DRAWS_PER_RESAMPLE = 100
CHANCE_DRAWS = 200  # of outcomes, for what right probabilities would show


class UndefinedMetric(ValueError):
    """A metric that these pictures do not define, because there are none of some class."""


class TooFewGroups(ValueError):
    """Pictures of too few groups for bootstrap intervals."""


@dataclass(frozen=True)
class DecisionRule:
    """How probabilities become an answer.

    `positive` is the index of the positive class of two. It is answered if its probability is at least `threshold`.
    With more than two classes, or without a threshold, the most probable class is answered.
    """

    positive: int | None = None
    threshold: float | None = None

    def answers(self, probabilities: Float[np.ndarray, "n k"]) -> Int[np.ndarray, " n"]:
        """Return the index of the class answered for each picture."""
        if self.positive is None or self.threshold is None:
            return np.asarray(probabilities.argmax(axis=1))
        return np.where(probabilities[:, self.positive] >= self.threshold, self.positive, 1 - self.positive)


@dataclass(frozen=True)
class Estimate:
    """The value of a metric on all pictures, and the bounds of its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: pictures binned by a probability, without empty bins."""

    mean_probability: Float[np.ndarray, " bins"]
    frequency: Float[np.ndarray, " bins"]  # share of pictures with a positive outcome
    pictures: Int[np.ndarray, " bins"]


def auroc(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Return the area under the ROC curve, computed as the Mann-Whitney statistic: ties count half."""
    positives, negatives = _count_sides(positive)
    _, position, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[position]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Return the mean of the precisions at all thresholds, weighted by the gain in recall, without interpolation."""
    positives, _ = _count_sides(positive)
    _, position, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    hits = np.bincount(position, weights=positive)
    return float((np.cumsum(hits) / np.cumsum(counts) * hits).sum() / positives)


def sensitivity_at(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], specificity: float) -> float:
    """Return the highest sensitivity of a threshold on these scores whose specificity is at least `specificity`."""
    _, negatives = _count_sides(positive)
    # The tolerance is for rounding: 90 % of ten negatives are nine, whatever 0.9 * 10 is in floating point.
    false_alarms = negatives - int(np.ceil(specificity * negatives - 1e-9))
    if false_alarms >= negatives:
        return 1.0
    highest_rejected = np.sort(scores[~positive])[negatives - 1 - false_alarms]
    return float((scores[positive] > highest_rejected).mean())


def brier(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """Return the mean squared error of the probabilities (Brier 1950), summed over classes.

    With two classes only one of them counts, as is usual, and the score is between 0 and 1. With more classes it is
    between 0 and 2.
    """
    classes = probabilities.shape[1]
    squares = np.square(probabilities - np.eye(classes)[labels]).sum(axis=1)
    return float(squares.mean()) / (2 if classes == 2 else 1)


def nll(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """Return the mean negative log-likelihood of the true classes, in nats. A probability of 0 counts as 2.2e-16."""
    true = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(true, np.finfo(np.float64).eps)).mean())


def reliability(probability: Float[np.ndarray, " n"], outcome: Bool[np.ndarray, " n"], bins: int = BINS) -> Reliability:
    """Compute the reliability diagram of a probability and its outcome.

    The bins have equal width, and each includes its upper bound.
    """
    bin_index = np.digitize(probability, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    pictures = np.bincount(bin_index, minlength=bins)
    used = pictures > 0
    sums = (np.bincount(bin_index, weights=values, minlength=bins)[used] for values in (probability, outcome))
    mean_probability, frequency = (total / pictures[used] for total in sums)
    return Reliability(mean_probability, frequency, pictures[used])


def calibration_error(probability: Float[np.ndarray, " n"], outcome: Bool[np.ndarray, " n"], bins: int = BINS) -> float:
    """Return the expected calibration error (Guo et al., "On Calibration of Modern Neural Networks", 2017).

    It is the mean gap between probability and frequency over bins of equal width, weighted by their pictures.
    """
    binned = reliability(probability, outcome, bins)
    return float((np.abs(binned.mean_probability - binned.frequency) * binned.pictures).sum() / len(probability))


def chance_outcomes(probability: Float[np.ndarray, " n"], rng: np.random.Generator) -> Bool[np.ndarray, "draws n"]:
    """Draw outcomes as they would be if the probabilities were right, `CHANCE_DRAWS` times."""
    return rng.random((CHANCE_DRAWS, len(probability))) < probability


def excess_calibration_error(
    probability: Float[np.ndarray, " n"], outcome: Bool[np.ndarray, " n"], by_chance: Bool[np.ndarray, "draws n"]
) -> float:
    """Return the expected calibration error, less its mean over outcomes that are due to right probabilities.

    Of few pictures, right probabilities show an error too, by chance (Bröcker & Smith 2007, "Increasing the reliability
    of reliability diagrams"). `by_chance` are outcomes of `chance_outcomes`.
    """
    expected = float(np.mean([calibration_error(probability, drawn) for drawn in by_chance]))
    return calibration_error(probability, outcome) - expected


def confidence(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], rule: DecisionRule
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Return the probability whose calibration is measured, and its outcome, for each picture.

    With a positive class it is the probability of that class, so that errors at low and at high probabilities cannot
    cancel. Otherwise, as in Guo et al. 2017, it is the probability of the most probable class.
    """
    if rule.positive is None:
        return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    return probabilities[:, rule.positive], labels == rule.positive


def risk_coverage(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], rule: DecisionRule
) -> Float[np.ndarray, " n"]:
    """Return the share of wrong answers among the 1, 2, … n surest ones (El-Yaniv & Wiener 2010).

    Surer is what is further from the decision threshold, in logits, or without one has the higher probability. Answers
    that are equally sure count as if in random order.
    """
    if rule.positive is None or rule.threshold is None:
        sureness = probabilities.max(axis=1)
    else:
        smallest = np.finfo(np.float64).eps
        bounded = np.clip([*probabilities[:, rule.positive], rule.threshold], smallest, 1 - smallest)
        logits = np.log(bounded) - np.log1p(-bounded)
        sureness = np.abs(logits[:-1] - logits[-1])
    wrong = rule.answers(probabilities) != labels
    _, position, counts = np.unique(-sureness, return_inverse=True, return_counts=True)
    errors = np.cumsum(np.repeat(np.bincount(position, weights=wrong) / counts, counts))
    return np.asarray(errors / np.arange(1, len(labels) + 1))


def error_at(risks: Float[np.ndarray, " n"], coverage: float) -> float:
    """Return the share of wrong answers where the least sure ones are left out, so that `coverage` of them remain."""
    return float(risks[max(1, int(np.ceil(coverage * len(risks) - 1e-9))) - 1])


def ranking_metrics(index: int) -> dict[str, Metric]:
    """Return the metrics of one class against the rest that need no threshold, by name."""
    metrics: dict[str, BinaryMetric] = {"auroc": auroc, "average_precision": average_precision}
    for specificity in SPECIFICITIES:
        metrics[f"sensitivity_at_specificity_{specificity:g}"] = partial(sensitivity_at, specificity=specificity)
    return {name: _against_rest(metric, index) for name, metric in metrics.items()}


def answer_metrics(index: int, rule: DecisionRule) -> dict[str, Metric]:
    """Return sensitivity (recall) and specificity of the answers for one class against the rest, by name."""

    def share_right(probabilities: Float[np.ndarray, "n k"], of: Bool[np.ndarray, " n"], positive: bool) -> float:
        if not of.any():
            raise UndefinedMetric("there is no picture to count")
        return float(((rule.answers(probabilities) == index)[of] == positive).mean())

    def sensitivity(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
        return share_right(probabilities, labels == index, True)

    def specificity(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
        return share_right(probabilities, labels != index, False)

    return {"sensitivity": sensitivity, "specificity": specificity}


def classification_metrics(classes: int, rule: DecisionRule) -> dict[str, Metric]:
    """Return all metrics by name.

    Metrics of one class against the rest are those of the positive class or, without one, the macro mean over classes.
    """

    def accuracy(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
        return float((rule.answers(probabilities) == labels).mean())

    def balanced_accuracy(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
        right = np.bincount(labels[rule.answers(probabilities) == labels], minlength=classes)
        pictures = np.bincount(labels, minlength=classes)
        if not pictures.all():
            raise UndefinedMetric("balanced accuracy needs pictures of every class")
        return float((right / pictures).mean())

    def ece(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
        return calibration_error(*confidence(probabilities, labels, rule))

    def risk_coverage_area(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
        return float(risk_coverage(probabilities, labels, rule).mean())

    def error_at_coverage(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
        return error_at(risk_coverage(probabilities, labels, rule), COVERAGE)

    if rule.positive is None:
        per_class = [ranking_metrics(index) for index in range(classes)]
        class_metrics = {name: _macro_mean([metrics[name] for metrics in per_class]) for name in per_class[0]}
    else:
        class_metrics = ranking_metrics(rule.positive) | answer_metrics(rule.positive, rule)
    overall: dict[str, Metric] = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy}
    selective: dict[str, Metric] = {
        "risk_coverage_area": risk_coverage_area,
        f"error_at_coverage_{COVERAGE:g}": error_at_coverage,
    }
    return class_metrics | overall | {"brier": brier, "ece": ece, "nll": nll} | selective


def described_intervals(repeats: int, seed: int) -> dict[str, str | int]:
    """Describe the intervals of `bootstrap` for a JSON document."""
    return {
        "method": "bootstrap of whole groups, percentiles",
        "percent": 95,
        "repeats": repeats,
        "seed": seed,
    }


def bootstrap(
    metric: Metric,
    probabilities: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    groups: Sequence[str],
    repeats: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Compute a metric and its 95 % percentile interval (Efron 1979) by resampling whole groups of pictures.

    `groups` names the lesion, patient or other source of each picture, since pictures of one group are not independent.
    The resamples depend only on labels, groups and seed, and are the same for all metrics. Raises TooFewGroups (see
    `resamples`), and UndefinedMetric for a metric of a class without pictures.
    """
    values = [metric(probabilities[rows], labels[rows]) for rows in resamples(labels, groups, repeats, seed)]
    low, high = np.percentile(values, [2.5, 97.5]).tolist()
    return Estimate(metric(probabilities, labels), low, high)


def difference_of(metric_of_a: Metric, metric_of_b: Metric, classes: int) -> Metric:
    """Return a metric of model a minus that of model b, as a metric of their probabilities side by side."""
    return lambda both, labels: metric_of_a(both[:, :classes], labels) - metric_of_b(both[:, classes:], labels)


def paired_difference(
    metric: Metric,
    a: Float[np.ndarray, "n k"],
    b: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    groups: Sequence[str],
    repeats: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Compute a metric of model `a` minus that of model `b`, on the same pictures and the same resamples."""
    return bootstrap(difference_of(metric, metric, a.shape[1]), np.hstack([a, b]), labels, groups, repeats, seed)


def resamples(
    labels: Int[np.ndarray, " n"], groups: Sequence[str], repeats: int, seed: int
) -> Iterator[Int[np.ndarray, " m"]]:
    """Yield the row numbers of `repeats` bootstrap resamples of whole groups.

    Each resample draws as many groups as there are, with replacement. A resample without pictures of some class has no
    metrics and is drawn again, so the intervals are conditional on every class being present. Raises TooFewGroups if
    complete resamples are too rare.
    """
    if len(groups) != len(labels):
        raise ValueError(f"{len(groups)} groups are given for {len(labels)} pictures")
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    occurring = np.unique(labels)
    rng, rows, made = np.random.default_rng(seed), np.arange(len(labels)), 0
    for _ in range(_DRAWS_PER_RESAMPLE * repeats):
        if made == repeats:
            return
        copies = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))[group_of]
        if np.bincount(labels, weights=copies)[occurring].all():
            made += 1
            yield np.repeat(rows, copies)
    if made < repeats:
        raise TooFewGroups(f"{len(names)} groups are too few to resample {len(occurring)} classes: give more pictures")


def _count_sides(positive: Bool[np.ndarray, " n"]) -> tuple[int, int]:
    positives = int(positive.sum())
    if not 0 < positives < len(positive):
        raise UndefinedMetric("the metric needs pictures both of the class and of the rest")
    return positives, len(positive) - positives


def _against_rest(metric: BinaryMetric, index: int) -> Metric:
    return lambda probabilities, labels: metric(probabilities[:, index], labels == index)


def _macro_mean(parts: Sequence[Metric]) -> Metric:
    return lambda probabilities, labels: float(np.mean([part(probabilities, labels) for part in parts]))
