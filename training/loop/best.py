"""The best epoch of a run by AUROC on val: whose weights `keep: best` keeps, and what `early_stopping` waits for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from training.recipe.config import Recipe


@dataclass
class Best:
    """The best epoch so far, counted from 0, and its averaged weights if these are to be kept."""

    auroc: float = -math.inf
    epoch: int = -1
    weights: dict[str, Tensor] | None = None

    def see(self, epoch: int, auroc: float, model: nn.Module, recipe: Recipe) -> None:
        """Take note of an epoch that has ended. Of equal ones the first is the best."""
        if auroc > self.auroc:
            self.auroc, self.epoch = auroc, epoch
            if recipe.keep == "best":
                self.weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

    def is_over(self, epoch: int, recipe: Recipe) -> bool:
        """Whether the run ends before this epoch, since none of the last ones that trained the head was better."""
        waited = sum(recipe.stage_at(past).head == "all" for past in range(self.epoch + 1, epoch))
        return 0 < recipe.early_stopping <= waited

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return dict(vars(self))

    def remark(self, recipe: Recipe, epochs: int) -> str:
        """A sentence on the weights of a run that has trained so many epochs, and on what that does to val."""
        if recipe.keep == "last":
            return f"the weights are those of the end, after epoch {epochs}; epoch {self.epoch + 1} was the best on val"
        return (
            f"the weights are those of epoch {self.epoch + 1} of {epochs}, the best by AUROC on val, {self.auroc:.3f}: "
            "they were chosen on val, so that figures on val are better than those on other pictures"
        )
