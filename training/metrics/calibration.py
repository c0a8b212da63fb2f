"""From logits to decisions: the temperature of the softmax, and the threshold between two classes."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Int

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0


def softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Logits to probabilities."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Float[np.ndarray, "n k"] = odds / odds.sum(axis=1, keepdims=True)
    return probabilities


def mean_nll(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """Mean negative log-likelihood of the true classes, in nats."""
    top = logits.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    return float((log_sums - logits[np.arange(len(labels)), labels]).mean())


def fit_temperature(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """The temperature with the least mean negative log-likelihood (Guo et al. 2017), held within 0.05 to 20.

    The likelihood is convex in 1/T, so its slope, the mean of (expected logit - true class's logit), changes sign
    once, and bisection finds where. Where the classes are separated perfectly it never does, and the bound is taken.
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
    """The threshold with the most sensitivity + specificity - 1 (Youden 1950), halfway between two probabilities.

    Of equals, the lowest. Raises ValueError where all probabilities are the same.
    """
    steps = np.unique(probability)
    if len(steps) < 2:
        raise ValueError("all pictures got one and the same probability: no threshold tells them apart")
    thresholds = (steps[1:] + steps[:-1]) / 2
    missed, rejected = (np.searchsorted(np.sort(probability[side]), thresholds) for side in (positive, ~positive))
    return float(thresholds[np.argmax(rejected / (~positive).sum() - missed / positive.sum())])
