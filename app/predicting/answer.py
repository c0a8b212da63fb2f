"""From logits to an answer: calibrated probabilities and the label by the bundle's decision rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.bundles.manifest import Manifest
from app.shapes import Float32


@dataclass(frozen=True)
class Answer:
    """Calibrated probabilities, the most probable class first, and the label by the decision rule."""

    label: str
    probabilities: dict[str, float]


def answer_of(manifest: Manifest, logits: Float32[np.ndarray, " k"]) -> Answer:
    """The answer for one picture's logits.

    The probabilities are the softmax at the bundle's temperature. The label is the most probable class or, if the
    bundle has a decision rule, the class by its threshold.
    """
    scaled = logits.astype(np.float64) / manifest.calibration.temperature
    exponentials = np.exp(scaled - scaled.max())
    by_class = zip(manifest.classes, (exponentials / exponentials.sum()).tolist(), strict=True)
    probabilities = dict(sorted(by_class, key=lambda pair: -pair[1]))
    label = next(iter(probabilities))
    if (decision := manifest.decision) is not None:
        is_positive = probabilities[decision.positive] >= decision.threshold
        label = next(name for name in manifest.classes if (name == decision.positive) is is_positive)
    return Answer(label, probabilities)


def decision_bias(manifest: Manifest) -> Float32[np.ndarray, " k"]:
    """The bias that makes the highest logit that of the label, also where a decision threshold is set.

    It is minus the threshold's logit times the temperature for the positive class, and 0 for all others.
    """
    bias = np.zeros(len(manifest.classes), np.float32)
    if (decision := manifest.decision) is not None:
        threshold_logit = manifest.calibration.temperature * np.log(decision.threshold / (1 - decision.threshold))
        bias[manifest.classes.index(decision.positive)] = -threshold_logit
    return bias
