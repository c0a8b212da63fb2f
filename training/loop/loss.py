"""Cross-entropy as a sum over pictures, to be divided by the weights of the whole batch, wherever its parts are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from training.recipe.config import Imbalance


@dataclass(frozen=True)
class Loss:
    """Weighted, smoothed cross-entropy on soft targets.

    `weights` `[K]` counts a picture by its class, `log_prior` `[K]` is added to the logits while training.
    """

    weights: Tensor
    log_prior: Tensor
    smoothing: float

    @classmethod
    def from_labels(cls, labels: Sequence[int], classes: int, imbalance: Imbalance, smoothing: float) -> Loss:
        """The loss for training labels.

        `class_weights` are inverse to a class's frequency, with mean 1 over the pictures; `logit_adjustment` adds the
        log of a class's frequency to its logit (Menon et al. 2021). The other choices leave the loss alone.
        """
        counts = torch.bincount(torch.tensor(labels), minlength=classes).double()
        frequency = counts / counts.sum()
        weights, log_prior = torch.ones(classes).double(), torch.zeros(classes).double()
        if imbalance == "class_weights":
            weights = 1 / (frequency * classes)
        elif imbalance == "logit_adjustment":
            log_prior = frequency.log()
        return cls(weights, log_prior, smoothing)

    def normaliser(self, labels: Sequence[int]) -> float:
        """What the sum over a batch with these labels is to be divided by. Mixing within the batch leaves it alone."""
        return float(self.weights[list(labels)].sum())

    def __call__(self, logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
        """The sum over the batch. `targets` are one-hot or mixed; they are smoothed here, and nowhere else."""
        weights, log_prior = (t.to(logits.device, logits.dtype) for t in (self.weights, self.log_prior))
        smoothed = targets * (1 - self.smoothing) + self.smoothing / targets.shape[1]
        per_picture = -(smoothed * functional.log_softmax(logits + log_prior, dim=1)).sum(dim=1)
        return (per_picture * (targets @ weights)).sum()
