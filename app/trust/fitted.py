"""A bundle's trust part, made of its tensors: what was fitted to calibration pictures that training did not see.

The bundle's reader has verified the file; here its numbers are checked against what they stand for, so that a part that
was written wrongly is refused when the model is loaded, and not when somebody relies on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isclose

import numpy as np

from app.bundles.checks import LARGEST, reading, require, require_basis, require_bounded
from app.bundles.manifest import TRUST, Manifest, Trust
from app.bundles.reader import Bundle
from app.models.feature_maps import Branch
from app.trust.calibration import MAPS, CalibrationMap
from app.trust.conformal import PENALTY, ConformalSets
from app.trust.foreign_parts import ForeignParts
from app.trust.novelty import BranchResidual, Novelty

_CALIBRATION, _CONFORMAL, _NOVELTY, _PARTS = "calibration.", "conformal.", "novelty.", "parts."
_RESIDUAL = ("mean", "basis", "scale")  # scale: centre and spread
Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class FittedTrust:
    """The calibration map, the prediction sets and the novelty score of a bundle.

    `parts` says where a picture is foreign; it is None in bundles that were made before it was there.
    """

    calibration: CalibrationMap
    sets: ConformalSets
    novelty: Novelty
    parts: ForeignParts | None = None

    def tensors(self) -> dict[str, np.ndarray]:
        """The content of the file, by the tensors' names."""
        parts = {_CALIBRATION + name: values for name, values in self.calibration.parameters().items()}
        parts |= {f"{_CONFORMAL}{index}": scores for index, scores in enumerate(self.sets.scores)}
        parts[_NOVELTY + "calibration"] = self.novelty.calibration
        parts |= _of_residuals(_NOVELTY, self.novelty.branches)
        if self.parts is not None:
            parts |= {_PARTS + "highest": self.parts.highest, **_of_residuals(_PARTS, self.parts.branches)}
        return {name: np.ascontiguousarray(values) for name, values in parts.items()}


def _of_residuals(prefix: str, branches: Mapping[Branch, BranchResidual]) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for branch, residual in branches.items():
        values = (residual.mean, residual.basis, np.array([residual.centre, residual.spread]))
        tensors |= {f"{prefix}{branch}.{name}": value for name, value in zip(_RESIDUAL, values, strict=True)}
    return tensors


def trust_of(bundle: Bundle) -> FittedTrust | None:
    """The bundle's trust part, or None if it has none. Raises BundleError if its numbers cannot be what they should."""
    if (section := bundle.manifest.trust) is None:
        return None
    with reading(TRUST, "trust part", "fit it again"):
        fitted = FittedTrust(
            MAPS[section.calibration].of(_below(bundle.trust, _CALIBRATION)),
            _sets(bundle.trust, bundle.manifest),
            _novelty(bundle.trust, bundle.manifest),
            _foreign_parts(bundle.trust, bundle.manifest),
        )
        _check_promises(section, fitted)
        probabilities = fitted.calibration.probabilities(np.zeros((1, len(bundle.manifest.classes))))
        require(probabilities.shape == (1, len(bundle.manifest.classes)), "its calibration has other classes")
        require(fitted.tensors().keys() == bundle.trust.keys(), "it has tensors that are not known")
        return fitted


def _check_promises(section: Trust, fitted: FittedTrust) -> None:
    """The manifest's numbers are those that the file gives: none may promise more than was fitted."""
    largest = fitted.sets.largest_coverage
    require(isclose(section.largest_coverage, largest), "trust.largest_coverage is not that of its scores")
    require(section.coverage <= largest, "trust.coverage is more than its scores can promise")
    threshold = fitted.novelty.threshold(section.inside)
    require(isclose(section.novelty_threshold, threshold), "trust.novelty_threshold is not that of its scores")


def _below(tensors: Tensors, prefix: str) -> dict[str, np.ndarray]:
    parts = {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
    for name, values in parts.items():
        require(values.dtype.kind == "f", f"{prefix}{name} holds {values.dtype.name}, not floats")
        require_bounded(values, f"{prefix}{name}")
    return parts


def _sets(tensors: Tensors, manifest: Manifest) -> ConformalSets:
    parts = _below(tensors, _CONFORMAL)
    scores = tuple(_rising(parts[str(index)], f"conformal.{index}") for index in range(len(manifest.classes)))
    counts = dict(zip(manifest.classes, map(len, scores), strict=True))
    require(manifest.trust is not None and manifest.trust.pictures == counts, "its scores are not of as many pictures")
    highest = 1 + PENALTY * len(scores)
    require(all(each[0] >= 0 and each[-1] <= highest for each in scores), f"its scores are not from 0 to {highest:g}")
    return ConformalSets(scores)


def _novelty(tensors: Tensors, manifest: Manifest) -> Novelty:
    parts = _below(tensors, _NOVELTY)
    residuals = {branch: _residual(parts, branch, shape[0]) for branch, shape in manifest.map_shapes.items()}
    return Novelty(residuals, _of_every_picture(parts["calibration"], "novelty.calibration", manifest))


def _foreign_parts(tensors: Tensors, manifest: Manifest) -> ForeignParts | None:
    if not (parts := _below(tensors, _PARTS)):
        return None
    shapes = manifest.map_shapes
    residuals = {branch: _residual(parts, branch, shapes[branch][0]) for branch in shapes if f"{branch}.mean" in parts}
    require(bool(residuals), "parts are of no branch")
    return ForeignParts(residuals, _of_every_picture(parts["highest"], "parts.highest", manifest))


def _of_every_picture(scores: np.ndarray, name: str, manifest: Manifest) -> np.ndarray:
    count = 0 if manifest.trust is None else sum(manifest.trust.pictures.values())
    require(len(_rising(scores, name)) == count, f"{name} is not of as many pictures")
    return scores


def _residual(parts: Tensors, branch: Branch, channels: int) -> BranchResidual:
    mean, basis, scale = (parts[f"{branch}.{name}"] for name in _RESIDUAL)
    require_basis(mean, basis, channels, branch)
    centre, spread = scale.tolist()
    require(spread > 1 / LARGEST, f"the {branch}'s spread is not positive, or far too small")
    return BranchResidual(mean, basis, centre, spread)


def _rising(scores: np.ndarray, name: str) -> np.ndarray:
    require(scores.ndim == 1 and len(scores) > 0, f"{name} is no list of scores")
    require(bool((np.diff(scores) >= 0).all()), f"{name} does not rise")
    return scores
