"""The result of an evaluation, and its three forms: a table for the terminal, a JSON document, an HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from app.bundles.manifest import Manifest
from training.evaluation.pages import render
from training.metrics.classification import BINS, DecisionRule, Estimate, confidence, described_intervals, reliability

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
}
_PLOT_PX = 300


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A bundle's probabilities for labelled pictures, and the metrics computed from them.

    `metrics` are those of the positive class or, if there are more than two classes, macro means. `class_metrics` are
    then those of each class against the rest. `labels` are indices of the manifest's classes, `paths` are relative to
    the data, and `repeats` and `seed` are those of the bootstrap.
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
    metrics: Mapping[str, Estimate]
    class_metrics: Mapping[str, Mapping[str, Estimate]]
    repeats: int
    seed: int
    versions: Mapping[str, str]

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
    def data_summary(self) -> str:
        """The data in words: its split, and the numbers of pictures and groups."""
        source = self.data if self.split is None else f"{self.split} of {self.data}"
        pictures = _count(len(self.paths), "picture")
        if self.groups == self.paths:
            return f"{source}: {pictures}, each a group of its own"
        return f"{source}: {pictures} of {_count(len(set(self.groups)), 'group')}"

    def text(self) -> str:
        """Format the metrics with their intervals as a table for the terminal."""
        lines = [self.data_summary, f"{'':32} value  95 % interval"]
        for name, estimate in self.metrics.items():
            lines.append(f"{METRIC_TEXTS[name][0]:32} {estimate.value:.3f}  {estimate.low:.3f} to {estimate.high:.3f}")
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
                "positive": None if rule.positive is None else classes[rule.positive],
                "threshold": rule.threshold,
            },
            "interval": described_intervals(self.repeats, self.seed),
            "figures": {name: asdict(estimate) for name, estimate in self.metrics.items()},
            "class_figures": {
                label: {name: asdict(estimate) for name, estimate in metrics.items()}
                for label, metrics in self.class_metrics.items()
            },
            "confusion_matrix": {"rows": "label", "columns": "answer", "pictures": self.confusion.tolist()},
            "versions": dict(self.versions),
            "pictures": [
                {"path": path, "group": group, "label": classes[k], "answer": classes[answer], "probabilities": row}
                for path, group, k, answer, row in rows
            ],
        }


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the picture as JPEG, its heatmap over it as PNG, and a sentence on the heatmap's scale."""

    path: str
    group: str
    label: str
    answer: str
    probability: float
    picture_jpeg: bytes
    overlay_png: bytes
    legend: str


def as_html(evaluation: Evaluation, mistakes: list[Mistake]) -> str:
    """Render the self-contained page `report.html`, with the mistakes in the order given."""
    wrong = int((evaluation.answers != evaluation.labels).sum())
    return render(
        Path(__file__).with_name("report.html"),
        evaluation=evaluation,
        manifest=evaluation.manifest,
        confusion=evaluation.confusion.tolist(),
        metric_texts=METRIC_TEXTS,
        charts=[_roc(evaluation), _precision_recall(evaluation), _reliability(evaluation)],
        mistakes=mistakes,
        wrong=wrong,
        plot_px=_PLOT_PX,
    )


def _curve_classes(evaluation: Evaluation) -> list[tuple[str, Float[np.ndarray, " n"], Any]]:
    """Return name, scores and truth of each class with a curve: the positive class, or all classes without one."""
    positive = evaluation.rule.positive
    shown = range(len(evaluation.manifest.classes)) if positive is None else [positive]
    return [(evaluation.manifest.classes[k], evaluation.probabilities[:, k], evaluation.labels == k) for k in shown]


def _roc(evaluation: Evaluation) -> dict[str, Any]:
    lines = []
    for name, scores, truth in _curve_classes(evaluation):
        false_rate, true_rate, _ = roc_curve(truth, scores)
        lines.append({"name": name, "points": _points(false_rate, true_rate)})
    chart: dict[str, Any] = {
        "title": "ROC curve",
        "x": "1 - specificity",
        "y": "sensitivity",
        "lines": lines,
        "caption": "Sensitivity and specificity of every threshold. The dashed diagonal is chance.",
        "guide": _points([0, 1], [0, 1]),
    }
    if evaluation.rule.threshold is not None:
        specificity, sensitivity = (evaluation.metrics[name].value for name in ("specificity", "sensitivity"))
        chart["mark"] = _points([1 - specificity], [sensitivity]).split(",")
        chart["caption"] += " The dot is the bundle's own threshold."
    return chart


def _precision_recall(evaluation: Evaluation) -> dict[str, Any]:
    lines, shown = [], _curve_classes(evaluation)
    for name, scores, truth in shown:
        precision, recall, _ = (values[::-1] for values in precision_recall_curve(truth, scores))
        # The curve is a step function, as average precision counts it: a precision holds from the previous recall on.
        rises = np.diff(recall) > 0
        ends = np.stack([recall[:-1], recall[1:]], axis=1)[rises]
        lines.append({"name": name, "points": _points(ends.ravel(), np.repeat(precision[1:][rises], 2))})
    chart: dict[str, Any] = {
        "title": "Precision and recall",
        "x": "recall",
        "y": "precision",
        "lines": lines,
        "caption": "Precision and recall of every threshold.",
    }
    if len(shown) == 1:
        share = float(shown[0][2].mean())
        chart["guide"] = _points([0, 1], [share, share])
        chart["caption"] += f" The dashed line is chance, the share of {shown[0][0]}."
    return chart


def _reliability(evaluation: Evaluation) -> dict[str, Any]:
    rule = evaluation.rule
    binned = reliability(*confidence(evaluation.probabilities, evaluation.labels, rule))
    of = "the most probable class" if rule.positive is None else evaluation.manifest.classes[rule.positive]
    share = binned.pictures / binned.pictures.sum()
    bars = zip(binned.mean_probability.tolist(), share.tolist(), strict=True)
    return {
        "title": "Reliability",
        "x": f"probability of {of}",
        "y": "share of pictures where it is true",
        "lines": [{"name": of, "points": _points(binned.mean_probability, binned.frequency)}],
        "caption": "On the dashed diagonal, probabilities are calibrated. A bar is the bin's share of the pictures; "
        "points of bins with few pictures are uncertain.",
        "guide": _points([0, 1], [0, 1]),
        "dots": True,
        "bars": [(_PLOT_PX * x, _PLOT_PX * height) for x, height in bars],
    }


def _points(x: Any, y: Any) -> str:
    """Format points of the unit square for an SVG polyline, with y upwards."""
    return " ".join(f"{_PLOT_PX * a:.2f},{_PLOT_PX * (1 - b):.2f}" for a, b in zip(x, y, strict=True))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
