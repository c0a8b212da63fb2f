"""The result of the data randomisation test: tables, a sentence for each failure, and a JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from app.explain.methods import METHODS
from app.shapes import Float
from training.metrics.classification import Estimate, described_intervals, resamples

REPEATS, SEED = 1000, 0
MAX_CORRELATION = 0.5  # largest rank correlation that passes, as in the tests with random weights
MIN_TRAIN_ACCURACY = 0.9  # on the shuffled labels; with less, the test says little
SCORES = {"logit": "the answered class's logit", "contrast": "that logit minus the mean of the others"}


@dataclass(frozen=True)
class HeadMetrics:
    """A head's accuracy on its own training labels, and its metrics on the true labels of val."""

    train_accuracy: float
    val_accuracy: float
    val_auroc: float


@dataclass(frozen=True)
class VariantRow:
    """Mean rank correlations of a variant's heatmaps with those of the first head, trained on the true labels.

    `shuffled` is for the head of shuffled labels, `control` for the second head of the true labels, and `difference` is
    the paired difference of control minus shuffled. `absolute_…` are the same for the absolute values of the heatmaps.
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
        """Why the variant fails, as a sentence. Class-agnostic methods do not depend on the head and cannot fail."""
        if METHODS[self.method].class_agnostic:
            return None
        name = f"{self.method} on {self.view} ({self.score}) fails"
        if self.shuffled.value > MAX_CORRELATION:
            return (
                f"{name}: with shuffled labels, the rank correlation is still {self.shuffled.value:.2f}, "
                f"more than {MAX_CORRELATION:g}."
            )
        if self.difference.low <= 0:
            return (
                f"{name}: the rank correlation with shuffled labels ({self.shuffled.value:.2f}) is not significantly "
                f"below that of the control ({self.control.value:.2f})."
            )
        return None

    @property
    def result(self) -> str:
        """The result in a few words."""
        if METHODS[self.method].class_agnostic:
            return "of no class: not counted"
        return "FAILS" if self.failure else "passes"


@dataclass(frozen=True)
class ShuffledLabelsResult:
    """The result of the test. `heads` are keyed by the labels that they were trained on."""

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
        """Sentences on failures, and on a head that did not learn the shuffled labels."""
        train_accuracy = self.heads["shuffled labels"].train_accuracy
        findings = [row.failure for row in self.rows if row.failure]
        if train_accuracy < MIN_TRAIN_ACCURACY:
            findings.append(
                f"The head of shuffled labels learnt only {train_accuracy:.0%} of them, so the test says little: "
                "choose more --epochs."
            )
        return findings

    def text(self) -> str:
        """Format the tables and the findings for the terminal."""
        counts = ", ".join(f"{count} {name}" for name, count in self.pictures.items())
        lines = [f"{self.data}: {counts}; heads trained for {self.epochs} epochs, seed {self.seed}", ""]
        lines.append(f"{'head':26}{'train accuracy':>15}{'val accuracy':>14}{'val AUROC':>11}")
        for name, head in self.heads.items():
            lines.append(f"{name:26}{head.train_accuracy:15.3f}{head.val_accuracy:14.3f}{head.val_auroc:11.3f}")
        lines += ["", "mean rank correlation with the heatmaps of the first head (true labels)"]
        for score, meaning in SCORES.items():
            lines += ["", f"{score}: {meaning}", f"{'':20}{'of heatmaps':^33}{'of absolute values':^22}"]
            lines.append(
                f"{'method':12}{'view':8}{'shuffled':>9}{'control':>9}{'diff., 95 %':>15}{'shuffled':>11}{'control':>9}"
            )
            lines += [_table_line(row) for row in self.rows if row.score == score]
        return "\n".join([*lines, "", *self.findings])

    def document(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
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
    """Return means with 95 % bootstrap intervals, over whole groups of pictures.

    They are those of the four columns, of the second minus the first column, and of the fourth minus the third.
    """
    values = np.column_stack([values, values[:, 1] - values[:, 0], values[:, 3] - values[:, 2]])
    one_class = np.zeros(len(values), np.int64)
    means = [values[rows].mean(axis=0) for rows in resamples(one_class, groups, REPEATS, SEED)]
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return [Estimate(*each) for each in np.stack([values.mean(axis=0), low, high], axis=1).tolist()]


def _row_document(row: VariantRow) -> dict[str, Any]:
    """Return a row for JSON, whose keys for the differences are `less` and `absolute_less`."""
    names = {"difference": "less", "absolute_difference": "absolute_less"}
    return {names.get(key, key): value for key, value in asdict(row).items()} | {"result": row.result}


def _table_line(row: VariantRow) -> str:
    correlations = (
        f"{row.shuffled.value:9.2f}{row.control.value:9.2f}{row.difference.low:7.2f} to {row.difference.high:4.2f}"
    )
    absolute = f"{row.absolute_shuffled.value:11.2f}{row.absolute_control.value:9.2f}"
    return f"{row.method:12}{row.view:8}{correlations}{absolute}  {row.result}"
