"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn, optim

from training.config import Recipe


def group_of(name: str, parameter: nn.Parameter) -> tuple[str, bool]:
    """The rate's name in `Rates` for one parameter of `CNNViTFusion`, and whether it decays.

    Norms and biases of every part share one rate and never decay; position tables never decay.
    """
    if parameter.ndim == 1:
        return "norm_and_bias", False
    decays = not name.endswith(("_position", "position_bias_table"))
    return name.split(".")[0], decays


def optimizer(model: nn.Module, recipe: Recipe) -> optim.AdamW:
    """AdamW with every parameter in exactly one group."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(group_of(name, parameter), []).append(parameter)
    return optim.AdamW(
        {"params": parameters, "lr": getattr(recipe.rates, rate), "weight_decay": recipe.weight_decay * decays}
        for (rate, decays), parameters in groups.items()
    )


def warmup_cosine(warmup: int, total: int) -> Callable[[int], float]:
    """The factor on every group's rate at each update: linear from near 0 to 1, then a cosine to 0."""

    def factor(update: int) -> float:
        if update < warmup:
            return (update + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (update - warmup) / (total - warmup)))

    return factor
