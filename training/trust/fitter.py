"""Fits a bundle's trust part to calibration pictures that are given, for the fit itself and for its cross-fitting."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from app.bundles.manifest import Manifest, ReasonCode, Trust
from app.predicting.answer import decision_bias
from app.shapes import Float
from app.trust.conformal import fit_sets, one_per_group
from app.trust.fitted import FittedTrust
from app.trust.foreign_parts import ForeignParts
from app.trust.novelty import Novelty
from training.trust.calibration_fit import candidates
from training.trust.novelty_fit import Residuals
from training.trust.observed import Observed

DEFAULT_COVERAGE, SEED = 0.9, 0
NEAR_SHARE = 0.1  # of the calibration pictures count as near the threshold
LEAST_SHARP, BLUR = 0.01, 0.5  # of the least sharp calibration pictures, this share of the sharpness is too little
REFERS: tuple[ReasonCode, ...] = (
    "more_than_one_class", "no_class", "contradicts_label", "foreign_picture", "poor_quality",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Fitter:
    """Fits everything but the residuals of the branches to calibration pictures, for a chosen calibration map.

    Without residuals of cells there are no foreign parts. With them, the pictures must have been compared with them.
    """

    manifest: Manifest
    residuals: Residuals
    kind: str
    inside: float

    def __call__(self, seen: Observed) -> FittedTrust:
        """The numbers, from these pictures. Raises ValueError if a class has none."""
        fit = candidates(seen.logits.shape[1])[self.kind]
        single = seen.only(one_per_group(seen.groups, SEED))
        novelty = Novelty(self.residuals.pictures, np.zeros(0))
        scores = np.sort(novelty.scores(single.features))
        parts = None
        if self.residuals.cells is not None:
            assert single.highest is not None
            parts = ForeignParts(self.residuals.cells, np.sort(single.highest))
        sets = fit_sets(single.logits, single.labels)
        return FittedTrust(fit(seen.logits, seen.labels), sets, Novelty(self.residuals.pictures, scores), parts)

    def section(self, seen: Observed, name: str) -> Trust:
        """The section of the manifest, without figures."""
        fitted, single = self(seen), seen.only(one_per_group(seen.groups, SEED))
        classes, largest = self.manifest.classes, fitted.sets.largest_coverage
        return Trust.model_validate(
            {
                "calibration": self.kind,
                "chosen_on": f"{name} ({len(seen.labels):,} pictures of {len({*seen.groups}):,} groups); figures by "
                "cross-fitting over groups",
                "pictures": {name: int((single.labels == index).sum()) for index, name in enumerate(classes)},
                "coverage": promised(DEFAULT_COVERAGE, largest),
                "largest_coverage": largest,
                "inside": self.inside,
                "novelty_threshold": fitted.novelty.threshold(self.inside),
                "near_gap": float(np.quantile(gaps(self.manifest, seen.logits), NEAR_SHARE)),
                "smallest_sharpness": BLUR * float(np.quantile(seen.sharpness, LEAST_SHARP)),
                "refers": REFERS,
                "figures": {},
            }
        )


def promised(wanted: float, largest: float) -> float:
    """The wanted share or, if that is more than can be promised, the largest one that can, in whole percent."""
    return min(wanted, math.floor(100 * largest) / 100)


def gaps(manifest: Manifest, logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """By how much the label's logit exceeds the next one, with the decision threshold taken into account."""
    ranked = np.sort(logits + decision_bias(manifest), axis=1)
    return np.asarray(ranked[:, -1] - ranked[:, -2], np.float64)
