"""What each branch of a bundle is worth: its part of the logits alone as an answer, and its share of them.

A fusion whose answers rest on one branch has little to compare, and its maps of the other show little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.models.feature_maps import Branch
from app.shapes import Float, Int
from app.trust.calibration import softmax
from training.evaluation.metric_values import MetricValue, Pictures, chosen_values
from training.metrics.classification import DecisionRule

Parts = Mapping[Branch, Float[np.ndarray, "n k"]]  # each branch's parts of the logits: `Predictor.branch_logits`


@dataclass(frozen=True)
class BranchWorth:
    """The AUROC of a branch's part of the logits, and the quartiles over pictures of its share in the answer's logit.

    Its share in a logit is the magnitude of its part, divided by those of all branches.
    """

    auroc: MetricValue
    shares: tuple[float, float, float]

    def document(self) -> dict[str, Any]:
        """Return the entry of `evaluation.json`."""
        return {"auroc": self.auroc.document(), "share_quartiles": list(self.shares)}

    @property
    def share_text(self) -> str:
        """The median and the other quartiles."""
        low, median, high = self.shares
        return f"{median:.0%} ({low:.0%} to {high:.0%})"


def branch_worths(
    parts: Parts,
    pictures: Pictures,
    answers: Int[np.ndarray, " n"],
    rule: DecisionRule,
    repeats: int,
    seed: int,
) -> dict[Branch, BranchWorth]:
    """Return the worth of each branch. `answers` are the indices of the classes answered."""
    if len(parts) < 2:
        return {}
    rows = np.arange(len(answers))
    sizes = {branch: np.abs(part[rows, answers]) for branch, part in parts.items()}
    total = np.sum([*sizes.values()], axis=0)
    worths = {}
    for branch, part in parts.items():
        alone = Pictures(pictures.classes, softmax(part), pictures.labels, pictures.groups)
        share = np.divide(sizes[branch], total, out=np.zeros_like(total), where=total > 0)
        low, median, high = np.quantile(share, [0.25, 0.5, 0.75]).tolist()
        auroc = chosen_values(alone, rule, ["auroc"], repeats, seed)["auroc"]
        worths[branch] = BranchWorth(auroc, (low, median, high))
    return worths
