"""Fits the novelty score of `app.trust.novelty` to the pooled feature maps of training pictures."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from app.models.feature_maps import Branch
from app.trust.novelty import BranchResidual, Pooled

DIRECTIONS = 1 / 5  # of a map's channels are kept: 256 of an EfficientNet's 1280, 51 of the demo Swin's 256


def fit_branch(features: Float[np.ndarray, "n c"]) -> BranchResidual:
    """The residual from these pictures' leading components. Raises ValueError for fewer than three pictures."""
    count, channels = features.shape
    if count < 3:
        raise ValueError("at least three pictures are needed")
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviations = np.asarray(features, np.float64) - mean
    _, directions = np.linalg.eigh(deviations.T @ deviations / count)
    kept = max(1, min(int(channels * DIRECTIONS), count // 2, channels - 1))
    fitted = BranchResidual(mean, np.ascontiguousarray(directions[:, ::-1][:, :kept], np.float16))
    logs = fitted.log_residual(features)
    return BranchResidual(fitted.mean, fitted.basis, float(logs.mean()), max(float(logs.std()), 1e-6))


def fit_branches(features: Pooled) -> dict[Branch, BranchResidual]:
    """The residual of every branch."""
    return {branch: fit_branch(of_branch) for branch, of_branch in features.items()}
