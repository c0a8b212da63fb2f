"""Cross-entropy as a sum over pictures and a normaliser for the whole batch.

The sum and the normaliser are separate so that a batch can be split into parts, in one process or in several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from app.shapes import Float
from training.recipe.config import Imbalance


@dataclass(frozen=True)
class Loss:
    """Cross-entropy on soft targets with class weights, label smoothing and logit adjustment.

    `weights` `[K]` are the class weights. `log_prior` `[K]` is added to the logits during training. `smoothing` is the
    share of each target that is spread evenly over all classes.
    """

    weights: Tensor
    log_prior: Tensor
    smoothing: float

    @classmethod
    def from_labels(cls, labels: Sequence[int], classes: int, imbalance: Imbalance, smoothing: float) -> Loss:
        """Build the loss from all training labels.

        With `class_weights`, the weights are inverse to the class frequencies and have mean 1 over the pictures. With
        `logit_adjustment`, the log of each class's frequency is added to its logit (Menon et al. 2021). The other
        values of `imbalance` do not change the loss.
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
        """Normaliser: the summed class weights of the batch; mixing does not change it."""
        return float(self.weights[list(labels)].sum())

    def __call__(self, logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
        """Return the loss summed over the pictures. `targets` are one-hot or mixed; smoothing is applied here."""
        weights, log_prior = (t.to(logits.device, logits.dtype) for t in (self.weights, self.log_prior))
        smoothed = targets * (1 - self.smoothing) + self.smoothing / targets.shape[1]
        per_picture = -(smoothed * functional.log_softmax(logits + log_prior, dim=1)).sum(dim=1)
        return (per_picture * (targets @ weights)).sum()
