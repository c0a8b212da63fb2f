"""Fits the novelty score of `app.trust.novelty` to the pooled feature maps of training pictures."""

from __future__ import annotations

import numpy as np

from app.models.feature_maps import Branch
from app.shapes import Float
from app.trust.novelty import BranchResidual, Pooled

KEPT = 1 / 20  # of the components: 64 of an EfficientNet's 1280, 12 of the demo Swin's 256


def fit_branch(features: Float[np.ndarray, "n c"], share: float = KEPT) -> BranchResidual:
    """The residual from a share of these pictures' principal components. Raises ValueError for fewer than three."""
    count, channels = features.shape
    if count < 3:
        raise ValueError("at least three pictures are needed")
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviations = np.asarray(features, np.float64) - mean
    _, directions = np.linalg.eigh(deviations.T @ deviations / count)
    kept = max(1, min(int(channels * share), count // 2, channels - 1))
    fitted = BranchResidual(mean, np.ascontiguousarray(directions[:, ::-1][:, :kept], np.float16))
    logs = fitted.log_residual(features)
    return BranchResidual(fitted.mean, fitted.basis, float(logs.mean()), max(float(logs.std()), 1e-6))


def fit_branches(features: Pooled) -> dict[Branch, BranchResidual]:
    """The residual of every branch."""
    return {branch: fit_branch(of_branch) for branch, of_branch in features.items()}
