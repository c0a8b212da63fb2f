"""Figures of a classifier on labelled pictures, and how sure they are.

A figure is a function of probabilities and labels. All are plain numpy: scikit-learn's checks cost milliseconds a
call, and a bootstrap calls each figure a thousand times. The tests hold them to scikit-learn's values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

Metric = Callable[[Float[np.ndarray, "n k"], Int[np.ndarray, " n"]], float]
BinaryMetric = Callable[[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]], float]

SPECIFICITIES = (0.9, 0.95)
BINS = 15
_DRAWS_PER_RESAMPLE = 100


@dataclass(frozen=True)
class DecisionRule:
    """How probabilities become an answer.

    With more than two classes, or without a threshold, the most probable class is answered. `positive` is the index
    of the class looked for, of two; it is answered where its probability is at least `threshold`.
    """

    positive: int | None = None
    threshold: float | None = None

    def answers(self, probabilities: Float[np.ndarray, "n k"]) -> Int[np.ndarray, " n"]:
        """The index of the class answered for each picture."""
        if self.positive is None or self.threshold is None:
            return np.asarray(probabilities.argmax(axis=1))
        return np.where(probabilities[:, self.positive] >= self.threshold, self.positive, 1 - self.positive)


@dataclass(frozen=True)
class Estimate:
    """A figure on all pictures, and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Reliability:
    """Pictures sorted into bins by a probability; bins without pictures are left out."""

    mean_probability: Float[np.ndarray, " bins"]
    frequency: Float[np.ndarray, " bins"]  # of what the probability is for
    pictures: Int[np.ndarray, " bins"]


def auroc(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counted half (Mann-Whitney)."""
    positives, negatives = _count_sides(positive)
    _, position, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[position]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Mean of the precisions at each threshold, weighted by the recall gained there; no interpolation."""
    positives, _ = _count_sides(positive)
    _, position, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    hits = np.bincount(position, weights=positive)
    return float((np.cumsum(hits) / np.cumsum(counts) * hits).sum() / positives)


def sensitivity_at(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], specificity: float) -> float:
    """The highest sensitivity of a threshold on these scores whose specificity is at least the one given."""
    _, negatives = _count_sides(positive)
    # The tolerance: 90 % of ten negatives are nine, whatever 0.9 * 10 is in floating point.
    false_alarms = negatives - int(np.ceil(specificity * negatives - 1e-9))
    if false_alarms >= negatives:
        return 1.0
    highest_rejected = np.sort(scores[~positive])[negatives - 1 - false_alarms]
    return float((scores[positive] > highest_rejected).mean())


def brier(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """Mean squared error of the probabilities (Brier 1950), summed over classes.

    Of two classes one is counted, so that the figure goes from 0 to 1, as is the custom; of more, from 0 to 2.
    """
    classes = probabilities.shape[1]
    squares = np.square(probabilities - np.eye(classes)[labels]).sum(axis=1)
    return float(squares.mean()) / (2 if classes == 2 else 1)


def nll(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """Mean negative log-likelihood of the true classes, in nats. A probability of 0 counts as 2.2e-16."""
    true = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(true, np.finfo(np.float64).eps)).mean())


def reliability(probability: Float[np.ndarray, " n"], outcome: Bool[np.ndarray, " n"], bins: int = BINS) -> Reliability:
    """How often what the probability is for came true, in `bins` bins of equal width, each closed above."""
    bin_index = np.digitize(probability, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    pictures = np.bincount(bin_index, minlength=bins)
    used = pictures > 0
    sums = (np.bincount(bin_index, weights=values, minlength=bins)[used] for values in (probability, outcome))
    mean_probability, frequency = (total / pictures[used] for total in sums)
    return Reliability(mean_probability, frequency, pictures[used])


def calibration_error(probability: Float[np.ndarray, " n"], outcome: Bool[np.ndarray, " n"], bins: int = BINS) -> float:
    """Expected calibration error: mean gap of probability and frequency over bins of equal width, weighted by pictures.

    Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    binned = reliability(probability, outcome, bins)
    return float((np.abs(binned.mean_probability - binned.frequency) * binned.pictures).sum() / len(probability))


def confidence(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], rule: DecisionRule
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """The probability whose reliability is looked at, and whether what it is for came true.

    With a positive class it is that class's probability, otherwise, as in Guo et al. 2017, the most probable one's.
    Errors at low and at high probabilities of the positive class can thus not cancel.
    """
    if rule.positive is None:
        return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    return probabilities[:, rule.positive], labels == rule.positive


def ranking_metrics(index: int) -> dict[str, Metric]:
    """Figures of one class against the rest which need no threshold, by name."""
    metrics: dict[str, BinaryMetric] = {"auroc": auroc, "average_precision": average_precision}
    for specificity in SPECIFICITIES:
        metrics[f"sensitivity_at_specificity_{specificity:g}"] = partial(sensitivity_at, specificity=specificity)
    return {name: _against_rest(metric, index) for name, metric in metrics.items()}


def answer_metrics(index: int, rule: DecisionRule) -> dict[str, Metric]:
    """Sensitivity (recall) and specificity of the answers for one class against the rest, by name."""

    def sensitivity(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
        return float((rule.answers(probabilities)[labels == index] == index).mean())

    def specificity(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
        return float((rule.answers(probabilities)[labels != index] != index).mean())

    return {"sensitivity": sensitivity, "specificity": specificity}


def classification_metrics(classes: int, rule: DecisionRule) -> dict[str, Metric]:
    """All figures by name: with a positive class those of this class, otherwise the macro mean over all classes."""

    def accuracy(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
        return float((rule.answers(probabilities) == labels).mean())

    def balanced_accuracy(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
        right = np.bincount(labels[rule.answers(probabilities) == labels], minlength=classes)
        pictures = np.bincount(labels, minlength=classes)
        if not pictures.all():
            raise ValueError("balanced accuracy needs pictures of every class")
        return float((right / pictures).mean())

    def ece(probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
        return calibration_error(*confidence(probabilities, labels, rule))

    if rule.positive is None:
        per_class = [ranking_metrics(index) for index in range(classes)]
        class_metrics = {name: _macro_mean([metrics[name] for metrics in per_class]) for name in per_class[0]}
    else:
        class_metrics = ranking_metrics(rule.positive) | answer_metrics(rule.positive, rule)
    overall: dict[str, Metric] = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy}
    return class_metrics | overall | {"brier": brier, "ece": ece, "nll": nll}


def described_intervals(repeats: int, seed: int) -> dict[str, str | int]:
    """How the intervals of `bootstrap` came about, for a document."""
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
    """The figure with its 95 % percentile interval (Efron 1979), resampling whole groups of pictures.

    `groups` names the lesion, patient or other source of each picture: pictures of one group are not independent. The
    same labels, groups and seed give the same resamples, whatever the figure. Raises ValueError as `resamples` does.
    """
    values = [metric(probabilities[rows], labels[rows]) for rows in resamples(labels, groups, repeats, seed)]
    low, high = np.percentile(values, [2.5, 97.5]).tolist()
    return Estimate(metric(probabilities, labels), low, high)


def paired_difference(
    metric: Metric,
    a: Float[np.ndarray, "n k"],
    b: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    groups: Sequence[str],
    repeats: int = 1000,
    seed: int = 0,
) -> Estimate:
    """The figure of model `a` less that of model `b` on the same pictures, both computed on the same resamples."""
    classes = a.shape[1]

    def difference(both: Float[np.ndarray, "n two_k"], labels: Int[np.ndarray, " n"]) -> float:
        return metric(both[:, :classes], labels) - metric(both[:, classes:], labels)

    return bootstrap(difference, np.hstack([a, b]), labels, groups, repeats, seed)


def resamples(
    labels: Int[np.ndarray, " n"], groups: Sequence[str], repeats: int, seed: int
) -> Iterator[Int[np.ndarray, " m"]]:
    """Row numbers of `repeats` resamples: as many groups as there are, drawn with replacement, each one whole.

    A resample that lacks a class has no figures and is drawn again, so intervals hold for data with every class in
    it. Raises ValueError where that hardly ever happens, because there are too few groups.
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
        raise ValueError(f"{len(names)} groups are too few to resample {len(occurring)} classes: give more pictures")


def _count_sides(positive: Bool[np.ndarray, " n"]) -> tuple[int, int]:
    positives = int(positive.sum())
    if not 0 < positives < len(positive):
        raise ValueError("the figure needs pictures both of the class and of the rest")
    return positives, len(positive) - positives


def _against_rest(metric: BinaryMetric, index: int) -> Metric:
    return lambda probabilities, labels: metric(probabilities[:, index], labels == index)


def _macro_mean(parts: Sequence[Metric]) -> Metric:
    return lambda probabilities, labels: float(np.mean([part(probabilities, labels) for part in parts]))
