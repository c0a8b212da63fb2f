"""Validation during training: the averaged weights' metrics on the pictures of val."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from app.shapes import Float, Int, UInt8
from training.data.samples import DataError, Sample
from training.loading.forward import predict
from training.loop.processes import Processes
from training.loop.readable import marked_batches
from training.metrics.calibration import softmax
from training.metrics.classification import DecisionRule, Metric, UndefinedMetric, classification_metrics
from training.runs.run import Run
from training.spelling import NO_VALUE

METRICS = ("nll", "accuracy", "auroc")  # the answer is the most probable class; AUROC is the macro mean


@dataclass(frozen=True)
class Validation:
    """Metrics on val, and the pictures that could not be read with the reason for each.

    `within` has the metrics for the pictures of each value of the column that the recipe balances within, and their
    number. An AUROC that they do not define is None.
    """

    metrics: dict[str, float]
    unreadable: dict[Sample, str]
    within: dict[str, dict[str, int | float | None]]


def validate(model: nn.Module, run: Run, processes: Processes) -> Validation:
    """Compute the metrics of a model in eval mode. The processes share the pictures, and each picture counts once.

    Raises DataError if no picture of some class can be read.
    """
    samples, labels = run.samples_of("val"), np.array(run.labels_of("val"))
    own, reasons = samples[processes.rank :: processes.count], list[str]()

    def images() -> Iterator[UInt8[Tensor, "b 3 h w"]]:
        for batch, batch_reasons in marked_batches(own, run, processes, "val"):
            reasons.extend(batch_reasons)
            yield batch

    own_logits = predict(model, images()) if own else np.empty((0, len(run.classes)), np.float32)
    logits, all_reasons = np.empty((len(labels), len(run.classes))), [""] * len(labels)
    for rank, (part, part_reasons) in enumerate(processes.gather((own_logits, reasons))):
        logits[rank :: processes.count] = part
        all_reasons[rank :: processes.count] = part_reasons
    unreadable = {sample: reason for sample, reason in zip(samples, all_reasons, strict=True) if reason}
    readable = np.array([not reason for reason in all_reasons])
    for index, name in enumerate(run.classes):
        if not (labels[readable] == index).any():
            raise DataError(f"val has no picture of {name} that can be read: {next(iter(unreadable.values()))}")
    metrics = classification_metrics(len(run.classes), DecisionRule(None, None))
    probabilities, labels = softmax(logits[readable]), labels[readable]
    column = run.recipe.balance.column if run.recipe.balance is not None else None
    within = {}
    if column is not None:
        values = np.array([sample.columns.get(column, NO_VALUE) for sample in samples])[readable]
        for value in sorted({*values.tolist()}):
            of_value = values == value
            within[value] = _metrics_of_some(probabilities[of_value], labels[of_value], metrics)
    return Validation({name: metrics[name](probabilities, labels) for name in METRICS}, unreadable, within)


def _metrics_of_some(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], metrics: Mapping[str, Metric]
) -> dict[str, int | float | None]:
    values: dict[str, int | float | None] = {"pictures": len(labels)}
    for name in METRICS:
        try:
            values[name] = metrics[name](probabilities, labels)
        except UndefinedMetric:  # no picture of some class
            values[name] = None
    return values
