"""What is explained, and what a method makes of it.

A method may know a picture's feature maps, the training data's mean maps, and the score on any maps: one logit, or
one logit minus another. The head comes as an object, so that everything here stays numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from app.explain.merge import Heatmap
from app.models.feature_maps import Branch

Maps = Mapping[Branch, Float32[np.ndarray, "c h w"]]
Batch = Mapping[Branch, Float32[np.ndarray, "b c h w"]]


@runtime_checkable
class Score(Protocol):
    """The head for one target, on batches of maps; from logits before temperature."""

    def values(self, maps: Batch) -> Float32[np.ndarray, " b"]:
        """The score of each item."""
        ...

    def gradients(self, maps: Batch) -> tuple[Float32[np.ndarray, " b"], Batch]:
        """The score of each item, and its derivative at the item's maps."""
        ...


class Ends(NamedTuple):
    """The score of the mean maps, and that of the picture."""

    reference: float
    picture: float


@dataclass(frozen=True)
class Subject:
    """One picture to explain. `reference` holds the training data's mean maps, which stand for what is absent.

    `known` and `known_gradient` are what `ends` and `gradient` would compute, from whoever has them.
    """

    maps: Maps
    reference: Maps
    score: Score
    known: Ends | None = None
    known_gradient: Maps | None = None

    def ends(self) -> Ends:
        """The score without the picture and with it."""
        if self.known is not None:
            return self.known
        return Ends(*self.score.values(stacked([self.reference, self.maps])).tolist())

    def gradient(self) -> Maps:
        """The score's derivative at the picture's maps."""
        if self.known_gradient is not None:
            return self.known_gradient
        _, gradients = self.score.gradients(stacked([self.maps]))
        return {branch: gradient[0] for branch, gradient in gradients.items()}


@dataclass(frozen=True)
class Completeness:
    """How well a map accounts for the score, in logits.

    `difference` is the score minus that of the mean maps; `error` is what the map adds up to, minus `difference`.
    """

    difference: float
    error: float

    @property
    def relative_error(self) -> float:
        """|error| over |difference|, which counts as 0.1 logit where it is less: nearly nothing needs no precision."""
        return abs(self.error) / max(abs(self.difference), 0.1)

    @property
    def is_small(self) -> bool:
        """Whether the error is below a thousandth."""
        return self.relative_error < 1e-3


@dataclass(frozen=True)
class Attribution:
    """One heatmap for each branch, on the branch's own grid."""

    heatmaps: Mapping[Branch, Heatmap]
    completeness: Completeness | None = None


def stacked(items: Sequence[Maps]) -> Batch:
    """Maps of single pictures as a batch."""
    return {branch: np.stack([item[branch] for item in items]) for branch in items[0]}
