"""The exponential moving average of the weights, buffers included."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class Ema(Generic[Model]):
    """A second model that follows the first: `model` is in eval mode and never trains.

    The decay warms up as (1 + t) / (10 + t), so that the first averages are not mostly the random start.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: Model, updates: int) -> None:
        """Move towards `model` after its update number `updates` (from 0). Integer buffers are copied."""
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
