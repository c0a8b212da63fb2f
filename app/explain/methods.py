"""The explanation methods by name, with their units, and how the heatmaps of several branches are merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from app.errors import BadParameter
from app.explain.ablation import ablationcam
from app.explain.attribution import Attribution, AttributionInput, Completeness, Maps
from app.explain.cam import eigencam, gradcam, gradcam_plus_plus, hirescam, layercam, xgradcam
from app.explain.integrated import integrated_gradients
from app.explain.merge import MERGE_RULES, Heatmap, MergeRule, merge_normalised, merge_sum
from app.models.feature_maps import FeatureMaps
from app.shapes import Float

CamFormula = Callable[[Float[np.ndarray, "c h w"], Float[np.ndarray, "c h w"]], Heatmap]
DEFAULT = "integrated"  # of bundles that name none: the best of the first demo model, in docs/measured/heatmaps.md


@dataclass(frozen=True)
class Method:
    """An explanation method.

    Heatmaps of several branches can be added if their unit is the logit; unitless ones must be scaled first, branch by
    branch. A class-agnostic method takes no target. `non_negative` methods are defined for feature maps without
    negative values. `uses_gradient` methods need the gradient at the picture's own maps. `note` is a sentence on how to
    read the heatmaps.
    """

    attribute: Callable[[AttributionInput], Attribution]
    units: Literal["logit", "unitless"]
    class_agnostic: bool = False
    non_negative: bool = False
    uses_gradient: bool = True
    note: str | None = None


def _from_gradient(formula: CamFormula, picture: AttributionInput) -> Attribution:
    gradient = picture.gradient()
    heatmaps = {branch: formula(activation, gradient[branch]) for branch, activation in picture.maps.items()}
    return Attribution(FeatureMaps(heatmaps))


def _without_gradient(picture: AttributionInput) -> Attribution:
    return Attribution(FeatureMaps({branch: eigencam(activation) for branch, activation in picture.maps.items()}))


_FOLLOWS_THE_MAP = (
    "This method counts only gradients that speak for the class. On feature maps without negative values it mostly "
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
        uses_gradient=False,
        note="Eigen-CAM is class-agnostic: it shows what stands out in the maps, not what speaks for a class.",
    ),
    "ablationcam": Method(ablationcam, "unitless"),
    "integrated": Method(
        integrated_gradients,
        "logit",
        uses_gradient=False,
        note="Evidence is what differs from the training data's mean maps, not from an empty picture.",
    ),
}


def merge_rule_of(method: str, rule: MergeRule | None) -> MergeRule:
    """The rule that merges the branches' heatmaps of a method: `rule`, or the method's default if that is None.

    The default is the sum for methods in logits and the mean for unitless ones. Raises BadParameter for an unknown
    rule, and for the sum of unitless heatmaps.
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
    """Merge the branches' heatmaps. The result is in logits for the rule `sum`, and unitless for all others."""
    return merge_sum(attribution.heatmaps) if rule == "sum" else merge_normalised(attribution.heatmaps, rule)


def merge_note(rule: MergeRule) -> str | None:
    """A sentence on how to read a heatmap that was merged by this rule; None for the sum, which needs none."""
    if rule == "sum":
        return None
    return (
        f"Each branch's map was cut off at zero and scaled to its own maximum before their {rule} was taken: "
        "the colours do not say how much a branch matters."
    )


def warnings_of(method: str, maps: Maps, completeness: Completeness | None) -> tuple[str, ...]:
    """Sentences on what is wrong with a heatmap of these feature maps."""
    warnings = []
    negative = [branch for branch, activation in maps.items() if activation.min() < 0]
    if METHODS[method].non_negative and negative:
        warnings.append(
            f"{method} is defined for feature maps without negative values, but the map of {' and '.join(negative)} "
            "has some: compare the heatmap with another method."
        )
    if completeness is not None and not completeness.is_small:
        warnings.append(
            f"The map adds up to {completeness.difference + completeness.error:.4g} logits, but the score differs from "
            f"the baseline's by {completeness.difference:.4g}: the values of the map are approximate."
        )
    return tuple(warnings)
