"""A bundle's answers to labelled pictures, with the code that the service runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.bundles.manifest import Manifest
from app.errors import FusionLensError
from app.predicting.prediction import Prediction, Upload
from app.predicting.predictor import Predictor
from app.progress import tracked
from app.shapes import Float
from app.trust.assessment import Assessment
from training.data.samples import DataError, Sample
from training.evaluation.branches import Parts
from training.metrics.classification import DecisionRule


@dataclass(frozen=True, eq=False)
class Answered:
    """The probabilities of the pictures, each branch's parts of their logits, and what the trust part says of them.

    `assessments` is empty if the bundle has no trust part.
    """

    probabilities: Float[np.ndarray, "n k"]
    parts: Parts
    assessments: tuple[Assessment, ...]


def answer_all(predictor: Predictor, samples: Sequence[Sample]) -> Answered:
    """Let a bundle answer all pictures. Raises DataError if one cannot be read."""
    rows, parts, assessments = [], [], []
    for sample in tracked(samples, "pictures", "pictures", len(samples)):
        prediction = predict_sample(predictor, sample)
        probability_of = predictor.answer(prediction).probabilities
        rows.append([probability_of[name] for name in predictor.bundle.manifest.classes])
        parts.append(predictor.branch_logits(prediction))
        assessments.append(predictor.assess(prediction))
    by_branch = {branch: np.array([part[branch] for part in parts]) for branch in parts[0]}
    return Answered(np.array(rows), by_branch, tuple(one for one in assessments if one is not None))


def decision_rule(manifest: Manifest) -> DecisionRule:
    """The rule by which a bundle answers. Without a positive class of two, it is that of its last class."""
    if manifest.decision is not None:
        return DecisionRule(manifest.classes.index(manifest.decision.positive), manifest.decision.threshold)
    return DecisionRule(positive=1 if len(manifest.classes) == 2 else None)


def open_sample(predictor: Predictor, sample: Sample) -> Upload:
    """Open the sample's picture as the service does. Raises DataError if that is impossible."""
    try:
        return predictor.open(sample.path.read_bytes())
    except FusionLensError as error:
        raise DataError(f"{sample.path}: {error}") from error


def predict_sample(predictor: Predictor, sample: Sample) -> Prediction:
    """Predict the sample's picture as the service does. Raises DataError if it cannot be read."""
    return predictor.predict(open_sample(predictor, sample))[0]
