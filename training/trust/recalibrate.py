"""A bundle for a new site, by labelled pictures from there: the weights stay, and what was fitted is fitted anew."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np

from app.bundles.manifest import Manifest
from app.bundles.reader import Bundle, read_bundle
from app.cases.stored import cases_of
from app.engines.load import load_engine
from app.shapes import Bool, Float
from app.trust.fitted import FittedTrust, trust_of
from training.metrics.classification import DecisionRule, calibration_error, confidence
from training.output import refuse_to_overwrite
from training.trust.answers import Answers, calibrate, metrics_of
from training.trust.cases_fit import add_cases
from training.trust.command import splits_of
from training.trust.fit import TrustFit, TrustProblem, check_enough, fit_to
from training.trust.goals import goals_text
from training.trust.novelty_fit import Residuals
from training.trust.observed import Observed, observe_parts
from training.trust.write import write_with_trust

RECALIBRATED = "Recalibrated: "  # how the note of such a bundle begins


@dataclass(frozen=True, eq=False)
class Recalibrated:
    """A recalibrated bundle, with its new trust part, and the calibration error of its parent on the site."""

    bundle: Bundle
    parent: Manifest
    error_before: float
    fit: TrustFit

    def text(self) -> str:
        """What has changed, and the figures of the new trust part."""
        manifest, found = self.bundle.manifest, self.fit.section.figures
        lines = [
            f"fitted on {self.fit.section.chosen_on}",
            f"temperature: {self.parent.calibration.temperature:.3f} before, {manifest.calibration.temperature:.3f} "
            "after",
        ]
        if self.parent.decision is not None and manifest.decision is not None:
            lines.append(
                f"threshold on {manifest.decision.positive}: {self.parent.decision.threshold:.3f} before, "
                f"{manifest.decision.threshold:.3f} after"
            )
        after = found["calibration_error"]
        lines.append(f"calibration error: {self.error_before:.4f} before, {after:.4f} after (by cross-fitting)")
        return "\n".join([*lines, *goals_text(self.fit.section)])


def recalibrate(path: Path, out: Path, data: Path, split: str | None, inside: float | None = None) -> Recalibrated:
    """Copy the bundle in `path` to the folder `out`, with all that depends on the site fitted to pictures of `data`.

    This is the temperature, the decision threshold and the trust part, of which novelty keeps its statistics and gets
    new thresholds. The index of similar cases gains the pictures. Weights, graphs and baseline stay; the manifest names
    the parent. The pictures are those of `split`: by default calibration or else val, or all if there are no splits.
    Raises TrustProblem, OutputError, DataError, RunError, BundleError and EngineError.
    """
    refuse_to_overwrite(out)
    bundle = read_bundle(path)
    parent = bundle.manifest
    if (fitted := trust_of(bundle)) is None:
        raise TrustProblem(
            f"{path} has no trust part whose novelty score could be kept: add one with trust, by the data that the "
            "model was trained on"
        )
    _, samples, name = splits_of(data, split)
    residuals, cases = Residuals.of(fitted), cases_of(bundle)
    seen = observe_parts(load_engine(bundle, "auto"), parent, samples, residuals.cells)
    check_enough(seen, parent)
    positive = None if parent.decision is None else parent.decision.positive
    answers = Answers(name, seen.logits.astype(np.float64), seen.labels)
    try:
        calibration, decision = calibrate(answers, parent.classes, positive)
    except ValueError as error:
        raise TrustProblem(f"the model tells no classes of {data} apart: {error}") from error
    note = (
        f"{RECALIBRATED}temperature, threshold, metrics and trust part are of {len(samples)} pictures of another "
        "source than the training data's. The metrics are of the pictures that these were chosen on: expect less on "
        "new ones."
    )
    manifest = parent.model_copy(
        update={
            "calibration": calibration,
            "decision": decision,
            "metrics": metrics_of(answers, parent.classes, calibration, decision),
            "created": date.today(),
            "parent": bundle.sha256,
            "notes": (*(each for each in parent.notes if not each.startswith(RECALIBRATED)), note),
        }
    )
    moved = replace(bundle, manifest=manifest)
    fit = fit_to(moved, residuals, seen, name, inside)
    before = calibration_error(*confidence_of(fitted, parent, seen))
    if cases is not None:
        cases = add_cases(cases, seen, samples)
    return Recalibrated(write_with_trust(moved, out, fit.section, fit.fitted, cases), parent, before, fit)


def confidence_of(
    fitted: FittedTrust, manifest: Manifest, seen: Observed
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """What `confidence` returns for the probabilities of a bundle's trust part."""
    probabilities = fitted.calibration.probabilities(seen.logits.astype(np.float64))
    rule = DecisionRule(None if manifest.decision is None else manifest.classes.index(manifest.decision.positive))
    return confidence(probabilities, seen.labels, rule)
