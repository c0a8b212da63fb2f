"""From logits to an answer: calibrated probabilities, and the bundle's decision rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from app.bundles.manifest import Manifest


@dataclass(frozen=True)
class Answer:
    """Calibrated probabilities, the most likely class first, and the label that the decision rule gives."""

    label: str
    probabilities: dict[str, float]


def answer_of(manifest: Manifest, logits: Float32[np.ndarray, " k"]) -> Answer:
    """Probabilities at the bundle's temperature; its decision threshold, where it has one, gives the label."""
    scaled = logits.astype(np.float64) / manifest.calibration.temperature
    odds = np.exp(scaled - scaled.max())
    of_class = zip(manifest.classes, (odds / odds.sum()).tolist(), strict=True)
    probabilities = dict(sorted(of_class, key=lambda pair: -pair[1]))
    label = next(iter(probabilities))
    if (decision := manifest.decision) is not None:
        chosen = probabilities[decision.positive] >= decision.threshold
        label = next(name for name in manifest.classes if (name == decision.positive) is chosen)
    return Answer(label, probabilities)


def decision_bias(manifest: Manifest) -> Float32[np.ndarray, " k"]:
    """What to add to logits so that the highest is the answer's class: the threshold's logit, at the temperature."""
    bias = np.zeros(len(manifest.classes), np.float32)
    if (decision := manifest.decision) is not None:
        as_logit = manifest.calibration.temperature * np.log(decision.threshold / (1 - decision.threshold))
        bias[manifest.classes.index(decision.positive)] = -as_logit
    return bias
