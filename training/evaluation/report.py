"""The result of an evaluation, as a table for the terminal and as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from app.bundles.manifest import Manifest
from app.models.feature_maps import Branch
from app.shapes import Float, Int
from training.evaluation.against import Against
from training.evaluation.branches import BranchWorth
from training.evaluation.metric_values import MetricValues
from training.evaluation.reliance import Reliance
from training.evaluation.subgroups import Subgroups
from training.metrics.classification import BINS, DecisionRule, described_intervals

# The title and the meaning of each metric.
METRIC_TEXTS = {
    "auroc": ("AUROC", "probability that a picture of the class scores above one of the rest; chance is 0.5"),
    "average_precision": ("Average precision", "mean precision over all recalls; chance is the share of the class"),
    "sensitivity_at_specificity_0.9": ("Sensitivity at specificity 0.90", "with a threshold chosen on these pictures"),
    "sensitivity_at_specificity_0.95": ("Sensitivity at specificity 0.95", "with a threshold chosen on these pictures"),
    "sensitivity": ("Sensitivity", "share of the class that is answered correctly"),
    "specificity": ("Specificity", "share of the rest that is not answered as the class"),
    "accuracy": ("Accuracy", "share of correct answers"),
    "balanced_accuracy": ("Balanced accuracy", "mean over classes of the share of correct answers"),
    "brier": ("Brier score", "mean squared error of the probabilities; lower is better"),
    "ece": (
        "Expected calibration error",
        f"mean gap of probability and frequency in {BINS} bins of equal width; lower is better",
    ),
    "nll": ("Negative log-likelihood", "mean over pictures, in nats; lower is better"),
    "risk_coverage_area": (
        "Area under risk-coverage curve",
        "mean share of wrong answers among the surest ones, over all their numbers; lower is better",
    ),
    "error_at_coverage_0.8": ("Error at 80 % coverage", "share of wrong answers without the least sure fifth"),
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A bundle's probabilities for labelled pictures, and the metrics computed from them.

    `metrics` are those of the positive class or, if there are more than two classes, macro means. `class_metrics` are
    then those of each class against the rest. `subgroups` have the metrics of parts of the pictures, `branches` what
    each branch is worth, if there are several, and `reliance` how often the trust part is right, if there is one.
    `against` compares another bundle. `labels` are indices of the manifest's classes, `paths` are
    relative to the data, and `repeats` and `seed` are those of the bootstrap. `remarks` are sentences on how the data
    was read and the metrics were computed that a reader may not expect.
    """

    manifest: Manifest
    bundle_sha256: str
    data: str
    split: str | None
    paths: tuple[str, ...]
    groups: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n k"]
    rule: DecisionRule
    metrics: MetricValues
    class_metrics: Mapping[str, MetricValues]
    subgroups: Subgroups
    branches: Mapping[Branch, BranchWorth]
    reliance: Reliance | None
    against: Against | None
    repeats: int
    seed: int
    versions: Mapping[str, str]
    remarks: tuple[str, ...] = ()

    @property
    def answers(self) -> Int[np.ndarray, " n"]:
        """The index of the class answered for each picture."""
        return self.rule.answers(self.probabilities)

    @property
    def confusion(self) -> Int[np.ndarray, "k k"]:
        """The confusion matrix: numbers of pictures by true class (rows) and answer (columns)."""
        classes = range(len(self.manifest.classes))
        return np.asarray(confusion_matrix(self.labels, self.answers, labels=list(classes)))

    @property
    def pictures_by_class(self) -> dict[str, int]:
        """The number of pictures of each class."""
        return {name: int((self.labels == k).sum()) for k, name in enumerate(self.manifest.classes)}

    @property
    def positive(self) -> str | None:
        """The positive class of two, or None."""
        return None if self.rule.positive is None else self.manifest.classes[self.rule.positive]

    @property
    def data_summary(self) -> str:
        """The data in words: its split, and the numbers of pictures and groups."""
        source = self.data if self.split is None else f"{self.split} of {self.data}"
        pictures = _count(len(self.paths), "picture")
        if self.groups == self.paths:
            return f"{source}: {pictures}, each a group of its own"
        return f"{source}: {pictures} of {_count(len(set(self.groups)), 'group')}"

    def text(self) -> str:
        """Format the metrics with their intervals as a table for the terminal."""
        positive = "" if self.positive is None else f"; positive class: {self.positive}"
        lines = [f"{self.data_summary}{positive}", *self.remarks, f"{'':32} value  95 % interval"]
        for name, figure in self.metrics.items():
            lines.append(f"{METRIC_TEXTS[name][0]:32} {figure.value_text}  {figure.interval_text}".rstrip())
        if self.against is not None:
            lines.append(f"{f'Minus {self.against.name}':32} difference, 95 % interval, verdict")
            lines += [f"  {METRIC_TEXTS[name][0]:30} {text}" for name, text in self.against.rows()]
        if self.reliance is not None:
            lines += ["Trust", *(f"  {name:46} {text}" for name, text in self.reliance.rows())]
        if self.branches:
            lines.append(f"{'Branches':32} AUROC  95 % interval   median share of the answer's logit, quartiles")
            for branch, worth in self.branches.items():
                auroc = worth.auroc
                lines.append(f"{f'  {branch}':32} {auroc.value_text}  {auroc.interval_text:16}{worth.share_text}")
        for column, parts in self.subgroups.items():
            lines.append(f"{f'AUROC by {column}':32} value  95 % interval")
            for value, part in parts.items():
                figure, label = part.metrics["auroc"], f"  {value} ({part.pictures:,})"
                lines.append(f"{label:32} {figure.value_text}  {figure.interval_text}".rstrip())
        return "\n".join(lines)

    def document(self) -> dict[str, Any]:
        """Return the content of `evaluation.json`. Each picture's probabilities are in the order of the classes."""
        manifest, rule, classes = self.manifest, self.rule, self.manifest.classes
        rows = zip(
            self.paths,
            self.groups,
            self.labels.tolist(),
            self.answers.tolist(),
            self.probabilities.tolist(),
            strict=True,
        )
        return {
            "bundle": {"name": manifest.name, "version": manifest.version, "sha256": self.bundle_sha256},
            "data": {
                "path": self.data,
                "split": self.split,
                "pictures": len(self.paths),
                "groups": len(set(self.groups)),
                "pictures_by_class": self.pictures_by_class,
            },
            "classes": list(classes),
            "decision": {
                "positive": self.positive,
                "threshold": rule.threshold,
            },
            "interval": described_intervals(self.repeats, self.seed),
            "remarks": list(self.remarks),
            "figures": {name: figure.document() for name, figure in self.metrics.items()},
            "class_figures": {
                label: {name: figure.document() for name, figure in metrics.items()}
                for label, metrics in self.class_metrics.items()
            },
            "branches": {branch: worth.document() for branch, worth in self.branches.items()},
            "trust": None if self.reliance is None else self.reliance.document(),
            "against": None if self.against is None else self.against.document(),
            "subgroups": {
                column: {
                    value: {
                        "pictures_by_class": part.pictures_by_class,
                        "figures": {name: figure.document() for name, figure in part.metrics.items()},
                    }
                    for value, part in parts.items()
                }
                for column, parts in self.subgroups.items()
            },
            "confusion_matrix": {"rows": "label", "columns": "answer", "pictures": self.confusion.tolist()},
            "versions": dict(self.versions),
            "pictures": [
                {"path": path, "group": group, "label": classes[k], "answer": classes[answer], "probabilities": row}
                for path, group, k, answer, row in rows
            ],
        }


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
