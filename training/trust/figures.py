"""The figures of a trust part, by cross-fitting: every picture is judged by what was fitted to other groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.bundles.manifest import Manifest, Trust
from app.predicting.answer import answer_of
from app.shapes import Bool, Float, Int
from app.trust.assessment import Assessment, Evidence, assess
from app.trust.conformal import one_per_group
from app.trust.fitted import FittedTrust
from training.metrics.classification import CHANCE_DRAWS, calibration_error, chance_outcomes, excess_calibration_error
from training.metrics.coverage import coverage_interval
from training.trust.fitter import Fitter, gaps
from training.trust.observed import Observed

REPEATS, NULL_DRAWS, SEED = 500, 4, 0
ANSWERED = 0.8


@dataclass(frozen=True, eq=False)
class Fold:
    """The pictures of one fold by their places, and the trust part that was fitted to all others."""

    places: Int[np.ndarray, " m"]
    rule: Trust
    fitted: FittedTrust


def measure(fit: Fitter, seen: Observed, fold: Int[np.ndarray, " n"]) -> dict[str, float]:
    """All figures, by name. What has bounds is followed by `.low` and `.high`, the ends of a 95 % interval."""
    manifest, folds = fit.manifest, []
    for index in np.unique(fold).tolist():
        others = seen.only(fold != index)
        folds.append(Fold(np.flatnonzero(fold == index), fit.section(others, "others"), fit(others)))
    coverage = min(each.rule.coverage for each in folds)
    assessed = _assessed(manifest, seen, folds, coverage)
    found = {"coverage": coverage} | _calibration_figures(_probabilities(manifest, assessed), seen)
    found |= _coverage_figures(manifest, assessed, seen, folds, coverage)
    sizes = Counter(min(len(of_one.prediction_set), 2) for of_one in assessed)
    for size, name in enumerate(("empty", "single", "several")):
        found[f"sets.{name}"] = sizes[size] / len(assessed)
    found |= _error_figures(manifest, assessed, seen)
    found["in_distribution"] = float(np.mean([of_one.in_distribution for of_one in assessed]))
    return {name: round(value, 4) for name, value in found.items()}


def _error_figures(manifest: Manifest, assessed: Sequence[Assessment], seen: Observed) -> dict[str, float]:
    """The error of all answers, and those of the surest and of the answered ones as shares of it."""
    labels = [manifest.classes.index(answer_of(manifest, logits).label) for logits in seen.logits]
    wrong, gap = np.array(labels) != seen.labels, gaps(manifest, seen.logits)
    kept = np.array([of_one.decision == "answer" for of_one in assessed])
    return {
        "error": float(wrong.mean()),
        "error_of_surest_80_by_error": _ratio(wrong, gap >= np.quantile(gap, 1 - ANSWERED)),
        "answered": float(kept.mean()),
        "error_of_answered_by_error": _ratio(wrong, kept),
    }


def _assessed(manifest: Manifest, seen: Observed, folds: Sequence[Fold], coverage: float) -> list[Assessment]:
    """The assessment of every picture, without a look at its quality."""
    found: dict[int, Assessment] = {}
    gap = gaps(manifest, seen.logits)
    for fold in folds:
        for place in fold.places.tolist():
            features = {branch: of_branch[place] for branch, of_branch in seen.features.items()}
            label = answer_of(manifest, seen.logits[place]).label
            evidence = Evidence(seen.logits[place], features, label, float(gap[place]), ())
            found[place] = assess(fold.rule, fold.fitted, manifest.classes, evidence, coverage)
    return [found[place] for place in range(len(seen.labels))]


def _probabilities(manifest: Manifest, assessed: Sequence[Assessment]) -> Float[np.ndarray, "n k"]:
    return np.array([[of_one.probabilities[name] for name in manifest.classes] for of_one in assessed])


def _ratio(wrong: Bool[np.ndarray, " n"], kept: Bool[np.ndarray, " n"]) -> float:
    """The error of some answers divided by the error of all; 1 if there is nothing to compare."""
    return float(wrong[kept].mean() / wrong.mean()) if wrong.any() and kept.any() else 1.0


def _coverage_figures(
    manifest: Manifest, assessed: Sequence[Assessment], seen: Observed, folds: Sequence[Fold], coverage: float
) -> dict[str, float]:
    """How often the sets of one picture of each group contain its class, with the interval that is due to chance."""
    found: dict[str, float] = {}
    single = one_per_group(seen.groups, SEED)
    for index, name in enumerate(manifest.classes):
        of_class = single[seen.labels[single] == index]
        covered = [name in assessed[place].prediction_set for place in of_class.tolist()]
        fitted_to = min(fold.rule.pictures[name] for fold in folds)
        low, high = coverage_interval(fitted_to, len(of_class), coverage)
        bounds = {f"coverage.{name}.low": low, f"coverage.{name}.high": high}
        found |= {f"coverage.{name}": float(np.mean(covered))} | bounds
    return found


def _calibration_figures(probabilities: Float[np.ndarray, "n k"], seen: Observed) -> dict[str, float]:
    """The expected calibration error, and its excess over what right probabilities would show.

    Of two classes it is that of the second one, and of more that of the most probable one. The interval resamples whole
    groups. In each resample the expectation is computed anew, from outcomes that are drawn from the probabilities.
    """
    if probabilities.shape[1] == 2:
        probability, outcome = probabilities[:, 1], seen.labels == 1
    else:
        probability, outcome = probabilities.max(axis=1), probabilities.argmax(axis=1) == seen.labels
    rng = np.random.default_rng(SEED)
    by_chance = chance_outcomes(probability, rng)
    names, group = np.unique(np.asarray(seen.groups), return_inverse=True)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    resampled = []
    for _ in range(REPEATS):
        chosen = np.concatenate([members[index] for index in rng.integers(0, len(names), len(names)).tolist()])
        some = by_chance[rng.integers(0, CHANCE_DRAWS, NULL_DRAWS)][:, chosen]
        resampled.append(excess_calibration_error(probability[chosen], outcome[chosen], some))
    low, high = np.quantile(resampled, [0.025, 0.975]).tolist()
    return {
        "calibration_error": calibration_error(probability, outcome),
        "calibration_error_debiased": excess_calibration_error(probability, outcome, by_chance),
        "calibration_error_debiased.low": low,
        "calibration_error_debiased.high": high,
    }
