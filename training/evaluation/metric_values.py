"""The metrics of an evaluation, with their intervals, or with the reason why these pictures define none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from app.progress import tracked
from app.shapes import Float, Int
from training.metrics.classification import (
    DecisionRule,
    Metric,
    TooFewGroups,
    UndefinedMetric,
    answer_metrics,
    bootstrap,
    classification_metrics,
    difference_of,
    ranking_metrics,
    resamples,
)


@dataclass(frozen=True)
class MetricValue:
    """The value of a metric, and the bounds of its 95 % confidence interval.

    `value` is None if the pictures do not define the metric, and the bounds are None if they define no interval.
    `reason` then says why.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the figure for a JSON document. What is undefined is null, and `undefined` is the reason."""
        bounds = {"value": self.value, "low": self.low, "high": self.high}
        return bounds if self.reason is None else bounds | {"undefined": self.reason}

    @property
    def value_text(self) -> str:
        """The value, or why there is none."""
        return f"undefined: {self.reason}" if self.value is None else f"{self.value:.3f}"

    @property
    def interval_text(self) -> str:
        """The interval, or why there is none. It is empty if there is no value either."""
        if self.value is None:
            return ""
        if self.low is None or self.high is None:
            return f"no interval: {self.reason}"
        return f"{self.low:.3f} to {self.high:.3f}"


MetricValues = Mapping[str, MetricValue]


@dataclass(frozen=True)
class Pictures:
    """A model's probabilities for labelled pictures.

    `labels` are indices of `classes`, and `groups` the lesion, patient or other source of each picture.
    """

    classes: Sequence[str]
    probabilities: Float[np.ndarray, "n k"]
    labels: Int[np.ndarray, " n"]
    groups: Sequence[str]

    @property
    def missing(self) -> list[str]:
        """The classes without a picture."""
        return [name for index, name in enumerate(self.classes) if not (self.labels == index).any()]


def metric_values(
    pictures: Pictures, rule: DecisionRule, repeats: int, seed: int
) -> tuple[dict[str, MetricValue], dict[str, dict[str, MetricValue]]]:
    """Compute all metrics and, if there is no positive class, also those of each class against the rest."""
    classes = pictures.classes
    metrics_of: dict[str | None, dict[str, Metric]] = {None: classification_metrics(len(classes), rule)}
    if rule.positive is None:
        for index, name in enumerate(classes):
            metrics_of[name] = ranking_metrics(index) | answer_metrics(index, rule)
    no_interval = _why_no_interval(pictures, repeats, seed)
    values: dict[str | None, dict[str, MetricValue]] = {name: {} for name in metrics_of}
    listed = [(owner, name, metric) for owner, metrics in metrics_of.items() for name, metric in metrics.items()]
    for owner, name, metric in tracked(listed, "intervals", "metrics", len(listed)):
        missing = [owner] if owner in pictures.missing else pictures.missing
        values[owner][name] = _figure(metric, pictures, missing, no_interval, repeats, seed)
    return values[None], {name: values[name] for name in classes if name in values}


def chosen_values(
    pictures: Pictures, rule: DecisionRule, names: Sequence[str], repeats: int, seed: int
) -> dict[str, MetricValue]:
    """Compute those of the metrics over all classes that are named and that the classes have."""
    no_interval = _why_no_interval(pictures, repeats, seed)
    metrics = classification_metrics(len(pictures.classes), rule)
    return {
        name: _figure(metrics[name], pictures, pictures.missing, no_interval, repeats, seed)
        for name in names
        if name in metrics
    }


def difference_values(
    pictures: Pictures,
    rule: DecisionRule,
    others: Float[np.ndarray, "n k"],
    rule_of_others: DecisionRule,
    repeats: int,
    seed: int,
) -> dict[str, MetricValue]:
    """Compute each metric of these probabilities minus that of `others`, on the same pictures and resamples."""
    classes = len(pictures.classes)
    both = replace(pictures, probabilities=np.hstack([pictures.probabilities, others]))
    no_interval = _why_no_interval(both, repeats, seed)
    of_others = classification_metrics(classes, rule_of_others)
    metrics = classification_metrics(classes, rule).items()
    return {
        name: _figure(difference_of(metric, of_others[name], classes), both, both.missing, no_interval, repeats, seed)
        for name, metric in tracked(metrics, "differences", "metrics", len(metrics))
    }


def _figure(
    metric: Metric, pictures: Pictures, missing: Sequence[str | None], no_interval: str | None, repeats: int, seed: int
) -> MetricValue:
    probabilities, labels = pictures.probabilities, pictures.labels
    try:
        if no_interval is not None:
            return MetricValue(metric(probabilities, labels), reason=no_interval)
        estimate = bootstrap(metric, probabilities, labels, pictures.groups, repeats, seed)
    except UndefinedMetric:
        return MetricValue(None, reason=f"no picture of {', '.join(map(str, missing))}")
    return MetricValue(estimate.value, estimate.low, estimate.high)


def _why_no_interval(pictures: Pictures, repeats: int, seed: int) -> str | None:
    if len(set(pictures.groups)) < 2:
        return "all pictures are of one group"
    try:
        for _ in resamples(pictures.labels, pictures.groups, repeats, seed):
            pass
    except TooFewGroups as error:
        return str(error)
    return None
