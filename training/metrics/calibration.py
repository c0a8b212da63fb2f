"""Calibration of a classifier: the temperature of its softmax, and the decision threshold between two classes."""

from __future__ import annotations

import math

import numpy as np

from app.shapes import Bool, Float, Int

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0  # bounds of the fit


def softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Return the softmax over classes."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Float[np.ndarray, "n k"] = odds / odds.sum(axis=1, keepdims=True)
    return probabilities


def mean_nll(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """Return the mean negative log-likelihood of the true classes, in nats."""
    top = logits.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    return float((log_sums - logits[np.arange(len(labels)), labels]).mean())


def fit_temperature(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """Return the temperature with the lowest mean negative log-likelihood (Guo et al. 2017), between 0.05 and 20.

    The negative log-likelihood is convex in 1/T. Its slope is the mean of (expected logit - logit of the true class),
    which changes sign at most once, so bisection finds the minimum. If the classes are separated perfectly, the slope
    never changes sign, and the result is a bound.
    """
    true = logits[np.arange(len(labels)), labels]
    low, high = MIN_TEMPERATURE, MAX_TEMPERATURE
    for _ in range(60):
        middle = math.sqrt(low * high)
        expected = (softmax(logits / middle) * logits).sum(axis=1)
        if (expected - true).mean() > 0:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def youden_threshold(probability: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Return the threshold that maximises sensitivity + specificity - 1 (Youden 1950).

    It lies halfway between two of the probabilities. Of several best thresholds, it is the lowest. Raises ValueError if
    all probabilities are equal.
    """
    steps = np.unique(probability)
    if len(steps) < 2:
        raise ValueError("all pictures have the same probability: no threshold tells them apart")
    thresholds = (steps[1:] + steps[:-1]) / 2
    missed, rejected = (np.searchsorted(np.sort(probability[side]), thresholds) for side in (positive, ~positive))
    return float(thresholds[np.argmax(rejected / (~positive).sum() - missed / positive.sum())])
