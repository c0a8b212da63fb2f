"""Whether an answer may be relied on, and in words why not: `answer`, or `refer` to a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.bundles.manifest import ReasonCode, Trust
from app.models.feature_maps import Branch
from app.shapes import Float
from app.trust.fitted import FittedTrust

Verdict = Literal["answer", "refer"]


@dataclass(frozen=True)
class Reason:
    """Why an answer is doubtful: a stable code, and a sentence."""

    code: ReasonCode
    detail: str


@dataclass(frozen=True)
class Assessment:
    """What the trust part says of one answer.

    `decision` is `refer` if one of the reasons refers by the bundle's rule. `prediction_set` are the classes that are
    possible at `coverage`, in the bundle's order. `probabilities` are those of the calibration map, the most probable
    class first. `novelty_percentile` is the share of calibration pictures that are less foreign, in percent.
    """

    decision: Verdict
    reasons: tuple[Reason, ...]
    prediction_set: tuple[str, ...]
    coverage: float
    probabilities: dict[str, float]
    in_distribution: bool
    novelty_percentile: float


@dataclass(frozen=True, eq=False)
class Evidence:
    """What an answer is assessed by.

    `features` are the pooled maps. `gap` is by how much the label's logit exceeds the next one, with the decision
    threshold taken into account. `faults` say what is wrong with the picture: see `app.trust.quality.faults`.
    """

    logits: Float[np.ndarray, " k"]
    features: Mapping[Branch, Float[np.ndarray, " _c"]]
    label: str
    gap: float
    faults: Sequence[str]


def assess(rule: Trust, fitted: FittedTrust, classes: Sequence[str], evidence: Evidence, coverage: float) -> Assessment:
    """Assess one answer. Raises ImpossibleCoverage."""
    logits = evidence.logits[None]
    possible = tuple(np.array(classes, object)[fitted.sets.contains(logits, coverage)[0]].tolist())
    probabilities = zip(classes, fitted.calibration.probabilities(logits)[0].tolist(), strict=True)
    score = float(fitted.novelty.scores({branch: one[None] for branch, one in evidence.features.items()})[0])
    percentile, is_inside = fitted.novelty.percentile(score), score <= rule.novelty_threshold
    reasons = [*_set_reasons(possible, evidence.label, coverage)]
    if not is_inside:
        detail = (
            f"The picture is unlike what the model was trained on: more foreign than {percentile:.1f} % of the "
            "calibration pictures."
        )
        reasons.append(Reason("foreign_picture", detail))
    if evidence.gap < rule.near_gap:
        reasons.append(
            Reason("near_threshold", f"The picture is almost as near to another class as to {evidence.label}.")
        )
    if evidence.faults:
        reasons.append(Reason("poor_quality", f"The picture {' and '.join(evidence.faults)}."))
    return Assessment(
        decision="refer" if any(reason.code in rule.refers for reason in reasons) else "answer",
        reasons=tuple(reasons),
        prediction_set=possible,
        coverage=coverage,
        probabilities=dict(sorted(probabilities, key=lambda pair: -pair[1])),
        in_distribution=is_inside,
        novelty_percentile=percentile,
    )


def _set_reasons(possible: Sequence[str], label: str, coverage: float) -> list[Reason]:
    at = f"at a coverage of {100 * coverage:g} %"
    if not possible:
        return [
            Reason("no_class", f"No class is possible {at}: of pictures of each class, the model is usually surer.")
        ]
    if len(possible) > 1:
        listed = f"{', '.join(possible[:-1])} and {possible[-1]}"
        each = "both" if len(possible) == 2 else "all"
        return [Reason("more_than_one_class", f"The classes {listed} are {each} possible {at}.")]
    if possible[0] != label:
        detail = f"Only {possible[0]} is possible {at}, but the label is {label}."
        return [Reason("contradicts_label", detail)]
    return []
