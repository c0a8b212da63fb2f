"""Parameter groups and the learning-rate schedule, with rates that fall towards the first layers of the transformer.

The optimizer has all parameters from the first update on, frozen ones included. A change of stage therefore neither
discards Adam's state nor shifts the schedule.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn, optim

from training.loop.layers import layers_of
from training.recipe.config import Recipe


def group_of(name: str, parameter: nn.Parameter) -> tuple[str, bool]:
    """Return the name of a parameter's learning rate in `Rates`, and whether the parameter has weight decay.

    `name` is the parameter's name in `CNNViTFusion`. Norms and biases of all parts share one rate. They, the
    position tables and the tokens of no cell have no weight decay.
    """
    if parameter.ndim == 1:
        return "norm_and_bias", False
    decays = not name.endswith(("_position", "position_bias_table", "pos_embed", "_token"))
    return name.split(".")[0], decays


def build_optimizer(model: nn.Module, recipe: Recipe, distillers: nn.Module | None = None) -> optim.AdamW:
    """Build AdamW (Loshchilov & Hutter 2019). Each group has one learning rate, whose name in `Rates` is its `rate`.

    What distillation learns besides the model has the rate of the head.

    The rate of a group is multiplied by its `share`, which is less than 1 for earlier layers of the transformer if the
    recipe has a `swin_layer_decay` (Clark et al. 2020, "ELECTRA", section 3.4). Raises RecipeError if timm does not say
    what the layers of the transformer are.
    """
    groups: dict[tuple[str, bool, float], list[nn.Parameter]] = {}
    shares = _layer_shares(getattr(model, "swin", None), recipe.rates.swin_layer_decay)
    further = [] if distillers is None else list(distillers.named_parameters(prefix="head"))
    for name, parameter in (*model.named_parameters(), *further):
        groups.setdefault((*group_of(name, parameter), shares.get(name, 1.0)), []).append(parameter)
    return optim.AdamW(
        {
            "params": parameters,
            "rate": rate,
            "share": share,
            "lr": getattr(recipe.rates, rate) * share,
            "weight_decay": recipe.weight_decay * decays,
        }
        for (rate, decays, share), parameters in groups.items()
    )


def _layer_shares(transformer: Any, decay: float) -> dict[str, float]:
    """The share of the rate for each parameter of the transformer: 1 in its last layer, as timm counts layers."""
    if transformer is None or decay == 1:
        return {}
    layers = layers_of(transformer, coarse=False, otherwise="use rates.swin_layer_decay: 1")
    return {f"swin.{name}": decay**later for later, layer in enumerate(reversed(layers)) for name in layer}


def warmup_cosine(update: int, warmup: int, total: int) -> float:
    """Return the factor on all learning rates at an update: a linear warm-up to 1, then a cosine down to 0.

    `warmup` and `total` are numbers of updates. The cosine schedule is that of Loshchilov & Hutter 2017. All groups
    have the same factor, so the ratios of their rates are constant.
    """
    if update < warmup:
        return (update + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (update - warmup) / (total - warmup)))


def set_rates(adam: optim.AdamW, recipe: Recipe, update: int, total: int) -> dict[str, float]:
    """Set the learning rates for one update of `total`, and return them by their names in `Rates`."""
    factor = warmup_cosine(update, int(recipe.warmup_share * total), total)
    rates = {}
    for group in adam.param_groups:
        rates[group["rate"]] = getattr(recipe.rates, group["rate"]) * factor
        group["lr"] = rates[group["rate"]] * group.get("share", 1.0)  # checkpoints of older versions have none
    return rates
