"""Fits the novelty score of `app.trust.novelty` to the pooled feature maps of training pictures."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from app.models.feature_maps import Branch
from app.trust.novelty import BranchDistance, Pooled

DIRECTIONS = 1 / 5  # of a map's channels that are kept: 256 of an EfficientNet's 1280, 51 of a narrow Swin's 256
_SMALLEST_VARIANCE = 1e-9  # as a share of the largest: rounding of float16 maps


def fit_branch(features: Float[np.ndarray, "n c"]) -> BranchDistance:
    """The distance from these pictures. Raises ValueError for fewer than three of them."""
    count, channels = features.shape
    if count < 3:
        raise ValueError("at least three pictures are needed")
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviations = np.asarray(features, np.float32) - mean
    variances, directions = np.linalg.eigh((deviations.T @ deviations / count).astype(np.float64))
    variances, directions = np.maximum(variances[::-1], 0), directions[:, ::-1]
    kept = max(1, min(int(channels * DIRECTIONS), count - 2, channels - 1))
    floor = max(_SMALLEST_VARIANCE * float(variances[0]), 1e-12)
    rest = max(float(variances[kept:].mean()), floor)
    fitted = BranchDistance(mean, directions[:, :kept].astype(np.float16), np.maximum(variances[:kept], floor), rest)
    logs = fitted.log_distance(features)
    return BranchDistance(
        fitted.mean, fitted.basis, fitted.variances, rest, float(logs.mean()), max(float(logs.std()), 1e-6)
    )


def fit_branches(features: Pooled) -> dict[Branch, BranchDistance]:
    """The distance of every branch."""
    return {branch: fit_branch(of_branch) for branch, of_branch in features.items()}
