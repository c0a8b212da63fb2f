"""Temperature, decision threshold and metrics of a model that is exported, from its logits for a split's pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.bundles.manifest import Calibration, Decision, Metrics
from app.shapes import Float, Int
from training.metrics.calibration import fit_temperature, mean_nll, softmax, youden_threshold
from training.metrics.classification import auroc


@dataclass(frozen=True)
class Answers:
    """A model's logits `[n, k]` for the pictures of a split, and their labels `[n]`."""

    split: str
    logits: Float[np.ndarray, "n k"]
    labels: Int[np.ndarray, " n"]


def calibrate(answers: Answers, classes: Sequence[str], positive: str | None) -> tuple[Calibration, Decision | None]:
    """Fit the temperature and the decision threshold. Without a positive class there is no threshold.

    Raises ValueError if one logit is as high as the other for all pictures of a class or more.
    """
    chosen_on = f"{answers.split} ({len(answers.labels)} pictures)"
    temperature = fit_temperature(answers.logits, answers.labels)
    calibration = Calibration(temperature=temperature, chosen_on=chosen_on)
    if positive is None:
        return calibration, None
    index = classes.index(positive)
    threshold = youden_threshold(softmax(answers.logits / temperature)[:, index], answers.labels == index)
    return calibration, Decision(positive=positive, threshold=threshold, chosen_on=chosen_on)


def metrics_of(
    answers: Answers, classes: Sequence[str], calibration: Calibration, decision: Decision | None
) -> Metrics:
    """Compute the metrics of a split. Without a decision rule they are those of the most probable class."""
    logits, labels = answers.logits, answers.labels
    scaled = logits / calibration.temperature
    probabilities = softmax(scaled)
    values = {"nll": mean_nll(scaled, labels)}
    if decision is None:
        aurocs = [auroc(probabilities[:, k], labels == k) for k in range(len(classes))]
        values["auroc_one_vs_rest"] = float(np.mean(aurocs))
        values["accuracy"] = float((probabilities.argmax(axis=1) == labels).mean())
    else:
        index = classes.index(decision.positive)
        truth, answer = labels == index, probabilities[:, index] >= decision.threshold
        values["auroc"] = auroc(logits[:, index] - logits[:, 1 - index], truth)
        values["accuracy"] = float((answer == truth).mean())
        values["sensitivity"], values["specificity"] = float(answer[truth].mean()), float((~answer[~truth]).mean())
    return Metrics(split=answers.split, pictures=len(labels), values=values)
