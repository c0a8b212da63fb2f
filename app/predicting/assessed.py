"""What a bundle's trust part says of a prediction: of one just made, or of one from the store."""

from __future__ import annotations

import numpy as np

from app.bundles.manifest import Manifest, Trust
from app.errors import BadParameter
from app.predicting.answer import answer_of, decision_bias
from app.predicting.prediction import Prediction
from app.trust.assessment import Assessment, Evidence, assess
from app.trust.conformal import ImpossibleCoverage
from app.trust.fitted import FittedTrust
from app.trust.novelty import pooled_one
from app.trust.quality import faults

WITHOUT_TRUST = (
    "This bundle has no trust part, so nothing is known of when its answers can be relied on: "
    "fusionlens-train trust BUNDLE DATA OUT adds one."
)


def checked_coverage(rule: Trust, fitted: FittedTrust, coverage: float | None) -> float:
    """The coverage that is asked for, or the bundle's default. Raises BadParameter if it cannot be promised."""
    if coverage is None:
        return rule.coverage
    try:
        fitted.sets.thresholds(coverage)
    except ImpossibleCoverage as error:
        name, count = min(rule.pictures.items(), key=lambda item: item[1])
        raise BadParameter(
            f"coverage {coverage:g} cannot be promised: with {count} calibration pictures of {name}, the smallest "
            f"possible rate of misses is {1 - error.largest:.4f}. Ask for a coverage of at most "
            f"{np.floor(1e4 * error.largest) / 1e4:g}."
        ) from error
    return coverage


def assess_prediction(manifest: Manifest, fitted: FittedTrust, prediction: Prediction, coverage: float) -> Assessment:
    """Assess a prediction of this bundle, at a coverage that `checked_coverage` has checked."""
    assert manifest.trust is not None
    ranked = np.sort(prediction.logits + decision_bias(manifest))
    upload = prediction.upload
    enlargement = upload.frame.input_width_px / upload.frame.width_px
    evidence = Evidence(
        logits=prediction.logits,
        features=pooled_one(prediction.maps),
        label=answer_of(manifest, prediction.logits).label,
        gap=float(ranked[-1] - ranked[-2]),
        faults=faults(upload.image, enlargement, manifest.trust.smallest_sharpness),
    )
    return assess(manifest.trust, fitted, manifest.classes, evidence, coverage)
