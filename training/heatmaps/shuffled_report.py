"""What heads trained on shuffled labels showed: a table, a sentence for each failure, and a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from app.explain.methods import METHODS
from training.metrics.classification import Estimate, described_intervals, resamples

REPEATS, SEED = 1000, 0
MAX_CORRELATION = 0.5  # of a rank correlation that may survive, the bound of the checks with random weights
MIN_TRAIN_ACCURACY = 0.9  # of the shuffled labels, or their head says little
SCORES = {"logit": "the answered class's logit", "contrast": "that logit less the mean of the others"}


@dataclass(frozen=True)
class HeadMetrics:
    """What a head learnt: accuracy on the labels it was trained on, and figures on the true labels of val."""

    train_accuracy: float
    val_accuracy: float
    val_auroc: float


@dataclass(frozen=True)
class VariantRow:
    """Mean rank correlations of a method's heatmaps with those of the head that learnt the true labels.

    `shuffled` are those of the head of shuffled labels, `control` those of another head of the true labels, and `less`
    is the control less the shuffled, picture by picture. `absolute_…` are the same of the maps' absolute values.
    """

    score: str
    method: str
    view: str
    shuffled: Estimate
    control: Estimate
    absolute_shuffled: Estimate
    absolute_control: Estimate
    difference: Estimate
    absolute_difference: Estimate

    @property
    def failure(self) -> str | None:
        """What is wrong, in a sentence. Maps of no class neither pass nor fail: no head changes them."""
        if METHODS[self.method].class_agnostic:
            return None
        name = f"{self.method} on {self.view} ({self.score}) fails"
        if self.shuffled.value > MAX_CORRELATION:
            return (
                f"{name}: {self.shuffled.value:.2f} of the maps' order survives shuffled labels, "
                f"more than {MAX_CORRELATION:g}."
            )
        if self.difference.low <= 0:
            return (
                f"{name}: shuffled labels ({self.shuffled.value:.2f}) are not shown to change its maps more than "
                f"another seed does ({self.control.value:.2f})."
            )
        return None

    @property
    def result(self) -> str:
        """In a word or two."""
        if METHODS[self.method].class_agnostic:
            return "of no class: not counted"
        return "FAILS" if self.failure else "passes"


@dataclass(frozen=True)
class ShuffledLabelsResult:
    """All that was found. `heads` are named by what they learnt."""

    bundle_name: str
    bundle_sha256: str
    data: str
    pictures: Mapping[str, int]
    epochs: int
    seed: int
    heads: Mapping[str, HeadMetrics]
    rows: Sequence[VariantRow]

    @property
    def findings(self) -> list[str]:
        """What the reader must know: failures, and a head that did not learn what it should."""
        train_accuracy = self.heads["shuffled labels"].train_accuracy
        findings = [row.failure for row in self.rows if row.failure]
        if train_accuracy < MIN_TRAIN_ACCURACY:
            findings.append(
                f"The head of shuffled labels learnt only {train_accuracy:.0%} of them, which proves little: "
                "choose more --epochs."
            )
        return findings

    def text(self) -> str:
        """The tables, and the findings."""
        counts = ", ".join(f"{count} {name}" for name, count in self.pictures.items())
        lines = [f"{self.data}: {counts}; heads trained for {self.epochs} epochs, seed {self.seed}", ""]
        lines.append(f"{'head':26}{'labels learnt':>14}{'val accuracy':>14}{'val AUROC':>11}")
        for name, head in self.heads.items():
            lines.append(f"{name:26}{head.train_accuracy:14.3f}{head.val_accuracy:14.3f}{head.val_auroc:11.3f}")
        lines += ["", "mean rank correlation with the maps of the head of the true labels"]
        for score, meaning in SCORES.items():
            lines += ["", f"{score}: {meaning}", f"{'':20}{'of maps':^33}{'of absolute values':^22}"]
            lines.append(
                f"{'method':12}{'view':8}{'shuffled':>9}{'control':>9}{'less, 95 %':>15}{'shuffled':>11}{'control':>9}"
            )
            lines += [_table_line(row) for row in self.rows if row.score == score]
        return "\n".join([*lines, "", *self.findings])

    def document(self) -> dict[str, Any]:
        """All of it, in types that JSON has."""
        return {
            "bundle": {"name": self.bundle_name, "sha256": self.bundle_sha256},
            "data": self.data,
            "pictures": dict(self.pictures),
            "epochs": self.epochs,
            "seed": self.seed,
            "scores": SCORES,
            "most_that_may_survive": MAX_CORRELATION,
            "interval": described_intervals(REPEATS, SEED),
            "heads": {name: asdict(head) for name, head in self.heads.items()},
            "table": [_row_document(row) for row in self.rows],
            "findings": self.findings,
        }


def estimates(values: Float[np.ndarray, "m 4"], groups: Sequence[str]) -> list[Estimate]:
    """Means with 95 % intervals: of the columns, of the second less the first, and of the fourth less the third."""
    values = np.column_stack([values, values[:, 1] - values[:, 0], values[:, 3] - values[:, 2]])
    one_class = np.zeros(len(values), np.int64)
    means = [values[rows].mean(axis=0) for rows in resamples(one_class, groups, REPEATS, SEED)]
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return [Estimate(*each) for each in np.stack([values.mean(axis=0), low, high], axis=1).tolist()]


def _row_document(row: VariantRow) -> dict[str, Any]:
    """A row for JSON, where a difference is called `less`."""
    names = {"difference": "less", "absolute_difference": "absolute_less"}
    return {names.get(key, key): value for key, value in asdict(row).items()} | {"result": row.result}


def _table_line(row: VariantRow) -> str:
    correlations = (
        f"{row.shuffled.value:9.2f}{row.control.value:9.2f}{row.difference.low:7.2f} to {row.difference.high:4.2f}"
    )
    absolute = f"{row.absolute_shuffled.value:11.2f}{row.absolute_control.value:9.2f}"
    return f"{row.method:12}{row.view:8}{correlations}{absolute}  {row.result}"
