"""The exponential moving average (EMA) of a model's parameters and buffers."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class Ema(Generic[Model]):
    """Keeps a copy of a model whose weights are the moving average of the model's.

    The copy, `model`, is frozen and in eval mode. At update t the decay is at most (1 + t) / (10 + t), so that early
    averages are not dominated by the initial weights.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: Model, updates: int) -> None:
        """Include the weights of `model` after update number `updates`, counted from 0. Integer buffers are copied."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        averages, values = [], []
        average_state = self.model.state_dict()
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averages.append(average_state[name])
                values.append(value)
            else:
                average_state[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)
