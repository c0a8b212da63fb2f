"""The methods by name: what each computes, in what unit, and how its branches can be joined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float

from app.errors import BadParameter
from app.explain.ablation import ablationcam
from app.explain.attribution import Attribution, Completeness, Maps, Subject
from app.explain.cam import eigencam, gradcam, gradcam_plus_plus, hirescam, layercam, xgradcam
from app.explain.integrated import integrated
from app.explain.merge import FUSES, Fuse, Heatmap, fuse, fuse_normalised

Formula = Callable[[Float[np.ndarray, "c h w"], Float[np.ndarray, "c h w"]], Heatmap]
DEFAULT = "integrated"  # of the fused maps the most faithful one, as docs/explanations.md measures


@dataclass(frozen=True)
class Method:
    """How evidence is measured.

    Values in `logit` of several branches can be added; unitless ones can only be compared, branch by branch scaled. A
    class-agnostic method takes no target. `non_negative` methods are defined for maps without negative values.
    """

    attribute: Callable[[Subject], Attribution]
    units: Literal["logit", "unitless"]
    class_agnostic: bool = False
    non_negative: bool = False
    note: str | None = None


def _at_gradient(formula: Formula, subject: Subject) -> Attribution:
    gradient = subject.gradient()
    return Attribution({branch: formula(present, gradient[branch]) for branch, present in subject.maps.items()})


def _without_gradient(subject: Subject) -> Attribution:
    return Attribution({branch: eigencam(present) for branch, present in subject.maps.items()})


_FOLLOWS_THE_MAP = (
    "Only gradients that speak for the class count here, so that on maps without negative values the result mostly "
    "shows where the map itself is large, whatever the head makes of it."
)
METHODS: dict[str, Method] = {
    "gradcam": Method(partial(_at_gradient, gradcam), "logit"),
    "gradcam++": Method(partial(_at_gradient, gradcam_plus_plus), "unitless", non_negative=True, note=_FOLLOWS_THE_MAP),
    "hirescam": Method(partial(_at_gradient, hirescam), "logit"),
    "layercam": Method(partial(_at_gradient, layercam), "unitless", non_negative=True, note=_FOLLOWS_THE_MAP),
    "xgradcam": Method(partial(_at_gradient, xgradcam), "logit", non_negative=True),
    "eigencam": Method(
        _without_gradient,
        "unitless",
        class_agnostic=True,
        note="Eigen-CAM is class-agnostic: it shows what stands out in the maps, not what speaks for a class.",
    ),
    "ablationcam": Method(ablationcam, "unitless"),
    "integrated": Method(
        integrated,
        "logit",
        note="Evidence is what differs from the training data's mean maps, not from an empty picture.",
    ),
}


def fusion_of(method: str, how: Fuse | None) -> Fuse:
    """How the branches' maps by this method are joined: as asked, by default the sum, or the mean where unitless.

    Raises BadParameter for a way that there is not, or the sum of maps without a unit.
    """
    if how is None:
        return "sum" if METHODS[method].units == "logit" else "mean"
    if how not in FUSES:
        raise BadParameter(f"Unknown fuse {how!r}: choose one of {', '.join(FUSES)}.")
    if how == "sum" and METHODS[method].units != "logit":
        raise BadParameter(
            f"The branches' maps by {method} have no common unit in which to be added: "
            f"choose fuse {', '.join(FUSES[1:])}, or another method."
        )
    return how


def fused(attribution: Attribution, how: Fuse) -> Heatmap:
    """Several branches' maps as one, in logits if added and unitless otherwise."""
    return fuse(attribution.heatmaps) if how == "sum" else fuse_normalised(attribution.heatmaps, how)


def fusion_note(how: Fuse) -> str | None:
    """How a fused map is to be read, where it is not a sum."""
    if how == "sum":
        return None
    return (
        f"Each branch's map was cut off at zero and scaled to its own maximum before their {how} was taken: "
        "the colours do not say how much a branch matters."
    )


def warnings_of(method: str, maps: Maps, completeness: Completeness | None) -> tuple[str, ...]:
    """What is amiss with the heatmap of these feature maps, in sentences."""
    found = []
    negative = [branch for branch, present in maps.items() if present.min() < 0]
    if METHODS[method].non_negative and negative:
        found.append(
            f"{method} is defined for feature maps without negative values, and there are some in the map of "
            f"{' and '.join(negative)}: compare it with another method."
        )
    if completeness is not None and not completeness.is_small:
        found.append(
            f"The map adds up to {completeness.difference + completeness.error:.4g} logits where the score differs by "
            f"{completeness.difference:.4g}: its values are approximate."
        )
    return tuple(found)
