"""The page of an evaluation, `report.html`: its metrics, curves and worst mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from app.shapes import Float
from training.evaluation.pages import render
from training.evaluation.report import METRIC_TEXTS, Evaluation
from training.metrics.classification import confidence, reliability, risk_coverage

_PLOT_PX = 300


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
    charts = [_roc(evaluation), _precision_recall(evaluation), _reliability(evaluation), _risk_coverage(evaluation)]
    wrong = int((evaluation.answers != evaluation.labels).sum())
    return render(
        Path(__file__).with_name("report.html"),
        evaluation=evaluation,
        manifest=evaluation.manifest,
        confusion=evaluation.confusion.tolist(),
        metric_texts=METRIC_TEXTS,
        charts=[chart for chart in charts if chart["lines"]],
        absent_charts=[chart["title"] for chart in charts if not chart["lines"]],
        mistakes=mistakes,
        wrong=wrong,
        plot_px=_PLOT_PX,
    )


def _curve_classes(evaluation: Evaluation) -> list[tuple[str, Float[np.ndarray, " n"], Any]]:
    """Return name, scores and truth of each class with a curve: the positive class, or all classes without one.

    A class that no picture has, or all of them, has no curve.
    """
    positive = evaluation.rule.positive
    shown = range(len(evaluation.manifest.classes)) if positive is None else [positive]
    curves = [(evaluation.manifest.classes[k], evaluation.probabilities[:, k], evaluation.labels == k) for k in shown]
    return [curve for curve in curves if 0 < curve[2].sum() < len(evaluation.labels)]


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
    specificity, sensitivity = (
        evaluation.metrics[name].value if name in evaluation.metrics else None
        for name in ("specificity", "sensitivity")
    )
    if evaluation.rule.threshold is not None and specificity is not None and sensitivity is not None:
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
    of = evaluation.positive or "the most probable class"
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


def _risk_coverage(evaluation: Evaluation) -> dict[str, Any]:
    risks = risk_coverage(evaluation.probabilities, evaluation.labels, evaluation.rule)
    coverage, error = np.arange(1, len(risks) + 1) / len(risks), float(risks[-1])
    return {
        "title": "Risk and coverage",
        "x": "share of the pictures that is answered",
        "y": "share of wrong answers",
        "lines": [{"name": "answers", "points": _points(coverage, risks)}],
        "caption": "The share of wrong answers if only the surest are given. The dashed line is that of all answers. "
        f"Its end is at an error of {error:.3f}.",
        "guide": _points([0, 1], [error, error]),
    }


def _points(x: Any, y: Any) -> str:
    """Format points of the unit square for an SVG polyline, with y upwards."""
    return " ".join(f"{_PLOT_PX * a:.2f},{_PLOT_PX * (1 - b):.2f}" for a, b in zip(x, y, strict=True))
