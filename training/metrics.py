"""Figures of a classifier on labelled pictures."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


def auroc(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counted half (Mann-Whitney)."""
    order, first, counts = np.unique(scores, return_inverse=True, return_counts=True)
    del order
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[first]
    positives, negatives = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))
