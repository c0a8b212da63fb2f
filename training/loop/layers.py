"""The layers of a backbone in their order, as timm groups them."""

from __future__ import annotations

from typing import Any

from timm.models import group_parameters
from timm.models._manipulate import MATCH_PREV_GROUP

from training.recipe.config import RecipeError


def layers_of(backbone: Any, coarse: bool, otherwise: str) -> list[list[str]]:
    """Return the parameter names of each layer, or of each stage if `coarse` is set, with those of the stem first.

    What timm counts to no layer, such as a norm behind all of them, is of the last one. Raises RecipeError, which tells
    the user what to do `otherwise`, if timm does not say what the layers are.
    """
    if not callable(getattr(backbone, "group_matcher", None)):
        raise RecipeError(f"timm does not say what the layers of {type(backbone).__name__} are: {otherwise}")
    matcher = backbone.group_matcher(coarse=coarse)
    if isinstance(matcher, dict):  # in some models it is a function, which leaves nothing out
        matcher = {**matcher, "rest": [(r"", MATCH_PREV_GROUP)]}
    layers: dict[int, list[str]] = group_parameters(backbone, matcher)
    return [layers[number] for number in sorted(layers)]
