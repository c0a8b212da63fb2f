"""The methods by name: what each computes, in which unit, and how the heatmaps of several branches are merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float

from app.errors import BadParameter
from app.explain.ablation import ablationcam
from app.explain.attribution import Attribution, AttributionInput, Completeness, Maps
from app.explain.cam import eigencam, gradcam, gradcam_plus_plus, hirescam, layercam, xgradcam
from app.explain.integrated import integrated_gradients
from app.explain.merge import MERGE_RULES, Heatmap, MergeRule, merge_normalised, merge_sum
from app.models.feature_maps import FeatureMaps

CamFormula = Callable[[Float[np.ndarray, "c h w"], Float[np.ndarray, "c h w"]], Heatmap]
DEFAULT = "integrated"  # the most faithful of the merged heatmaps in the measurements of docs/measured/heatmaps.md


@dataclass(frozen=True)
class Method:
    """How evidence is measured.

    Values in `logit` of several branches can be added; unitless ones can only be compared, branch by branch scaled. A
    class-agnostic method takes no target. `non_negative` methods are defined for maps without negative values.
    """

    attribute: Callable[[AttributionInput], Attribution]
    units: Literal["logit", "unitless"]
    class_agnostic: bool = False
    non_negative: bool = False
    note: str | None = None


def _from_gradient(formula: CamFormula, picture: AttributionInput) -> Attribution:
    gradient = picture.gradient()
    heatmaps = {branch: formula(activation, gradient[branch]) for branch, activation in picture.maps.items()}
    return Attribution(FeatureMaps(heatmaps))


def _without_gradient(picture: AttributionInput) -> Attribution:
    return Attribution(FeatureMaps({branch: eigencam(activation) for branch, activation in picture.maps.items()}))


_FOLLOWS_THE_MAP = (
    "Only gradients that speak for the class count here, so that on maps without negative values the result mostly "
    "shows where the map itself is large, whatever the head makes of it."
)
METHODS: dict[str, Method] = {
    "gradcam": Method(partial(_from_gradient, gradcam), "logit"),
    "gradcam++": Method(
        partial(_from_gradient, gradcam_plus_plus), "unitless", non_negative=True, note=_FOLLOWS_THE_MAP
    ),
    "hirescam": Method(partial(_from_gradient, hirescam), "logit"),
    "layercam": Method(partial(_from_gradient, layercam), "unitless", non_negative=True, note=_FOLLOWS_THE_MAP),
    "xgradcam": Method(partial(_from_gradient, xgradcam), "logit", non_negative=True),
    "eigencam": Method(
        _without_gradient,
        "unitless",
        class_agnostic=True,
        note="Eigen-CAM is class-agnostic: it shows what stands out in the maps, not what speaks for a class.",
    ),
    "ablationcam": Method(ablationcam, "unitless"),
    "integrated": Method(
        integrated_gradients,
        "logit",
        note="Evidence is what differs from the training data's mean maps, not from an empty picture.",
    ),
}


def merge_rule_of(method: str, rule: MergeRule | None) -> MergeRule:
    """The rule that merges the branches' heatmaps of this method: the one given, else its default.

    The default is the sum for methods in logits, and the mean for unitless ones. Raises BadParameter for an unknown
    rule, and for the sum of heatmaps without a unit.
    """
    if rule is None:
        return "sum" if METHODS[method].units == "logit" else "mean"
    if rule not in MERGE_RULES:
        raise BadParameter(f"Unknown fuse {rule!r}: choose one of {', '.join(MERGE_RULES)}.")
    if rule == "sum" and METHODS[method].units != "logit":
        raise BadParameter(
            f"The branches' maps by {method} have no common unit in which to be added: "
            f"choose fuse {', '.join(MERGE_RULES[1:])}, or another method."
        )
    return rule


def merged(attribution: Attribution, rule: MergeRule) -> Heatmap:
    """The branches' heatmaps as one: in logits for the sum, otherwise unitless."""
    return merge_sum(attribution.heatmaps) if rule == "sum" else merge_normalised(attribution.heatmaps, rule)


def merge_note(rule: MergeRule) -> str | None:
    """How a merged heatmap is to be read; None for a sum, which needs no note."""
    if rule == "sum":
        return None
    return (
        f"Each branch's map was cut off at zero and scaled to its own maximum before their {rule} was taken: "
        "the colours do not say how much a branch matters."
    )


def warnings_of(method: str, maps: Maps, completeness: Completeness | None) -> tuple[str, ...]:
    """What is amiss with a heatmap of these feature maps, in sentences."""
    warnings = []
    negative = [branch for branch, activation in maps.items() if activation.min() < 0]
    if METHODS[method].non_negative and negative:
        warnings.append(
            f"{method} is defined for feature maps without negative values, and there are some in the map of "
            f"{' and '.join(negative)}: compare it with another method."
        )
    if completeness is not None and not completeness.is_small:
        warnings.append(
            f"The map adds up to {completeness.difference + completeness.error:.4g} logits where the score differs by "
            f"{completeness.difference:.4g}: its values are approximate."
        )
    return tuple(warnings)
