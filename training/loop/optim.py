"""Parameter groups and the learning-rate schedule.

All groups exist from the first update, frozen parameters included, so that a change of stage neither loses Adam's
state nor shifts the schedule.
"""

from __future__ import annotations

import math

from torch import nn, optim

from training.recipe.config import Recipe


def group_of(name: str, parameter: nn.Parameter) -> tuple[str, bool]:
    """The rate's name in `Rates` for one parameter of `CNNViTFusion`, and whether it decays.

    Norms and biases of every part share one rate and never decay; position tables never decay.
    """
    if parameter.ndim == 1:
        return "norm_and_bias", False
    decays = not name.endswith(("_position", "position_bias_table"))
    return name.split(".")[0], decays


def build_optimizer(model: nn.Module, recipe: Recipe) -> optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) with every parameter in exactly one group, whose `rate` names it in `Rates`."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(group_of(name, parameter), []).append(parameter)
    return optim.AdamW(
        {
            "params": parameters,
            "rate": rate,
            "lr": getattr(recipe.rates, rate),
            "weight_decay": recipe.weight_decay * decays,
        }
        for (rate, decays), parameters in groups.items()
    )


def warmup_cosine(update: int, warmup: int, total: int) -> float:
    """The factor on every group's rate at an update: linear from near 0 to 1, then a cosine to 0.

    Loshchilov & Hutter 2017, with one factor for all groups, so that their ratios hold at every update.
    """
    if update < warmup:
        return (update + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (update - warmup) / (total - warmup)))


def set_rates(adam: optim.AdamW, recipe: Recipe, update: int, total: int) -> dict[str, float]:
    """Set every group's rate for one update, and return them by their names in `Rates`."""
    factor = warmup_cosine(update, int(recipe.warmup_share * total), total)
    rates = {}
    for group in adam.param_groups:
        group["lr"] = rates[group["rate"]] = getattr(recipe.rates, group["rate"]) * factor
    return rates
