"""Fits of the calibration maps, and the choice between them by cross-fitting over groups.

All fits minimise the mean negative log-likelihood, which is convex in the parameters of every map but the isotonic one,
by Newton steps with a small ridge that keeps the parameters finite where the classes are separated perfectly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from app.shapes import Float, Int
from app.trust.calibration import (
    Beta,
    CalibrationMap,
    Isotonic,
    Logits,
    Platt,
    Probabilities,
    Temperature,
    VectorScaling,
    beta_inputs,
    margins_of,
    sigmoid,
    softmax,
)
from app.trust.conformal import one_per_group
from training.metrics import calibration

Labels = Int[np.ndarray, " n"]
Fit = Callable[[Logits, Labels], CalibrationMap]
_RIDGE, _STEPS, _TOLERANCE = 1e-3, 50, 1e-9


def fit_temperature(logits: Logits, labels: Labels) -> Temperature:
    """The temperature with the lowest negative log-likelihood."""
    return Temperature(calibration.fit_temperature(np.asarray(logits, np.float64), labels))


def fit_platt(logits: Logits, labels: Labels) -> Platt:
    """Platt scaling. The slope is kept at 0 or above: a model that is worse than chance is not turned around."""
    margins = margins_of(logits)
    slope, offset = _logistic(np.stack([margins, np.ones_like(margins)], axis=1), labels, np.array([1.0, 0.0]))
    if slope < 0:
        (offset,), slope = _logistic(np.ones((len(labels), 1)), labels, np.zeros(1)), 0.0
    return Platt(float(slope), float(offset))


def fit_beta(logits: Logits, labels: Labels) -> Beta:
    """Beta calibration. A negative slope is set to 0 and the rest fitted again, as its authors do."""
    first, second = beta_inputs(margins_of(logits))
    columns, kept = np.stack([first, second, np.ones_like(first)], axis=1), [0, 1, 2]
    while True:
        fitted = np.zeros(3)
        fitted[kept] = _logistic(columns[:, kept], labels, np.array([1.0, 1.0, 0.0])[kept])
        negative = [index for index in kept if index < 2 and fitted[index] < 0]
        if not negative:
            return Beta(*map(float, fitted))
        kept.remove(min(negative, key=lambda index: float(fitted[index])))


def fit_isotonic(logits: Logits, labels: Labels) -> Isotonic:
    """Isotonic regression by pooling adjacent violators (Ayer et al. 1955).

    Probabilities are drawn towards a half by the weight of two pictures, so that none of them is 0 or 1.
    """
    margins, inverse = np.unique(margins_of(logits), return_inverse=True)
    weights, positives = np.bincount(inverse).astype(float), np.bincount(inverse, labels.astype(float))
    pools: list[tuple[float, float, float, float]] = []  # first and last margin, pictures, positives
    for margin, weight, positive in zip(margins.tolist(), weights.tolist(), positives.tolist(), strict=True):
        pool = (margin, margin, weight, positive)
        while pools and pools[-1][3] * pool[2] >= pool[3] * pools[-1][2]:
            first, _, weight, positive = pools.pop()
            pool = (first, pool[1], pool[2] + weight, pool[3] + positive)
        pools.append(pool)
    drawn = [(positive / weight * len(labels) + 1) / (len(labels) + 2) for _, _, weight, positive in pools]
    ends = [(first, last) if last > first else (first,) for first, last, _, _ in pools]
    knots = np.array([knot for of_pool in ends for knot in of_pool])
    return Isotonic(knots, np.repeat(drawn, [len(of_pool) for of_pool in ends]))


def fit_vector(logits: Logits, labels: Labels) -> VectorScaling:
    """Vector scaling, by Newton steps from the fitted temperature, drawn towards it by one picture's weight."""
    wide, count, classes = np.asarray(logits, np.float64), *logits.shape
    start = np.concatenate([np.full(classes, 1 / fit_temperature(logits, labels).temperature), np.zeros(classes)])
    ridge, truth, values = 1 / count, np.eye(classes)[labels], start

    def loss(at: np.ndarray) -> float:
        scores = wide * at[:classes] + at[classes:]
        return float(_nll(scores, labels).mean() + 0.5 * ridge * np.square(at - start).sum())

    for _ in range(_STEPS):
        probabilities = softmax(wide * values[:classes] + values[classes:])
        wrong = probabilities - truth
        slope = np.concatenate([(wrong * wide).sum(axis=0), wrong.sum(axis=0)]) / count + ridge * (values - start)
        weighted = np.concatenate([probabilities * wide, probabilities], axis=1)
        mixed = np.diag(weighted[:, :classes].sum(axis=0))
        second = np.diag(np.concatenate([(probabilities * wide**2).sum(axis=0), probabilities.sum(axis=0)]))
        second[:classes, classes:] = second[classes:, :classes] = mixed
        second = (second - weighted.T @ weighted) / count + ridge * np.eye(2 * classes)
        after = _descended(loss, values, np.linalg.solve(second, slope))
        if np.abs(after - values).max() < _TOLERANCE:
            break
        values = after
    return VectorScaling(np.maximum(values[:classes], 1e-3), values[classes:])


def candidates(classes: int) -> dict[str, Fit]:
    """The maps for a number of classes, the simplest first."""
    if classes > 2:
        return {"temperature": fit_temperature, "vector": fit_vector}
    return {"temperature": fit_temperature, "platt": fit_platt, "beta": fit_beta, "isotonic": fit_isotonic}


@dataclass(frozen=True)
class Comparison:
    """What cross-fitting found of one map: mean Brier score and log loss, and by how much they exceed the best map's.

    The standard errors are those of the means of these differences, over groups.
    """

    kind: str
    brier: float
    log_loss: float
    brier_excess: float
    brier_excess_error: float
    log_loss_excess: float
    log_loss_excess_error: float


def folds_of(groups: Sequence[str], labels: Labels, folds: int, seed: int) -> Int[np.ndarray, " n"]:
    """The fold of every picture: whole groups, dealt out at random, class after class, so that folds are alike.

    A group counts for the class of its picture that `one_per_group` draws.
    """
    rng = np.random.default_rng(seed)
    single = one_per_group(groups, seed)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    label_of = np.empty(len(names), np.int64)
    label_of[group[single]] = labels[single]
    order = rng.permutation(len(names))
    order = order[np.argsort(label_of[order], kind="stable")]
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % folds
    return np.asarray(fold[group])


def cross_fitted(fit: Fit, logits: Logits, labels: Labels, fold: Int[np.ndarray, " n"]) -> Probabilities:
    """The probabilities of every picture, by a map that was fitted to the pictures of the other folds."""
    probabilities = np.empty(logits.shape)
    for index in np.unique(fold).tolist():
        outside = fold != index
        probabilities[~outside] = fit(logits[outside], labels[outside]).probabilities(logits[~outside])
    return probabilities


def brier(probabilities: Probabilities, labels: Labels) -> Float[np.ndarray, " n"]:
    """The Brier score of every picture: the squared distance to the true class, over all classes."""
    return np.asarray(np.square(probabilities - np.eye(probabilities.shape[1])[labels]).sum(axis=1))


def log_loss(probabilities: Probabilities, labels: Labels) -> Float[np.ndarray, " n"]:
    """The negative log-likelihood of every picture's true class, in nats; probabilities below 1e-12 count as that."""
    return np.asarray(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)))


def compare(logits: Logits, labels: Labels, groups: Sequence[str], fold: Int[np.ndarray, " n"]) -> list[Comparison]:
    """Every map's cross-fitted Brier score and log loss, the simplest map first."""
    kinds = candidates(logits.shape[1])
    fitted = {kind: cross_fitted(fit, logits, labels, fold) for kind, fit in kinds.items()}
    scores = {kind: (brier(values, labels), log_loss(values, labels)) for kind, values in fitted.items()}
    best = []
    for which in (0, 1):
        means = {kind: float(values[which].mean()) for kind, values in scores.items()}
        best.append(scores[min(means, key=means.__getitem__)][which])
    rows = []
    for kind, values in scores.items():
        excess = [values[which] - best[which] for which in (0, 1)]
        errors = [_error_of_mean(difference, groups) for difference in excess]
        brier_mean, log_mean, more_brier, more_log = (float(value.mean()) for value in (*values, *excess))
        rows.append(Comparison(kind, brier_mean, log_mean, more_brier, errors[0], more_log, errors[1]))
    return rows


def simplest(comparisons: Sequence[Comparison]) -> str:
    """The simplest map that is within one standard error of the best, by Brier score and by log loss."""
    for row in comparisons:
        if row.brier_excess <= row.brier_excess_error and row.log_loss_excess <= row.log_loss_excess_error:
            return row.kind
    return min(comparisons, key=lambda row: row.log_loss).kind


def _error_of_mean(values: Float[np.ndarray, " n"], groups: Sequence[str]) -> float:
    """The standard error of a mean whose terms are independent between groups alone."""
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(group, values - values.mean())
    return float(np.sqrt(np.square(sums).sum()) / len(values))


def _nll(scores: Logits, labels: Labels) -> Float[np.ndarray, " n"]:
    top = scores.max(axis=1)
    sums = np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top
    return np.asarray(sums - scores[np.arange(len(labels)), labels])


def _logistic(inputs: Float[np.ndarray, "n d"], labels: Labels, start: Float[np.ndarray, " d"]) -> np.ndarray:
    """Logistic regression by Newton steps, drawn towards `start` by a small ridge."""

    def loss(at: np.ndarray) -> float:
        scores = inputs @ at
        return float((np.logaddexp(0, scores) - labels * scores).mean() + 0.5 * _RIDGE * np.square(at - start).sum())

    values = start.astype(float)
    for _ in range(_STEPS):
        probability = sigmoid(inputs @ values)
        slope = inputs.T @ (probability - labels) / len(labels) + _RIDGE * (values - start)
        weighted = inputs * (probability * (1 - probability))[:, None]
        second = inputs.T @ weighted / len(labels) + _RIDGE * np.eye(len(values))
        after = _descended(loss, values, np.linalg.solve(second, slope))
        if np.abs(after - values).max() < _TOLERANCE:
            break
        values = after
    return values


def _descended(loss: Callable[[np.ndarray], float], values: np.ndarray, step: np.ndarray) -> np.ndarray:
    """`values` minus the step, halved until the loss does not rise."""
    before = loss(values)
    for _ in range(30):
        if loss(values - step) <= before:
            return np.asarray(values - step)
        step = step / 2
    return values
