"""The input and the result of the explanation methods.

A method takes a picture's feature maps, the baseline (the training data's mean maps), and the score as a function of
the maps. The score is one logit, or one logit minus another. The head is passed as an object that computes it, so that
all methods are pure numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int

from app.explain.merge import Heatmap
from app.models.feature_maps import Branch, FeatureMaps, batched, unbatched

Maps = Mapping[Branch, Float32[np.ndarray, "c h w"]]
Batch = Mapping[Branch, Float32[np.ndarray, "b c h w"]]


@runtime_checkable
class Score(Protocol):
    """Computes the score of one target for batches of maps, from logits before temperature scaling."""

    def values(self, maps: Batch) -> Float32[np.ndarray, " b"]:
        """The score of each item of the batch."""
        ...

    def gradients(self, maps: Batch) -> tuple[Float32[np.ndarray, " b"], Batch]:
        """The score of each item, and the derivative of the score with respect to the maps of that item."""
        ...

    @property
    def lifted(self) -> LiftedScore | None:
        """The same score through the lifted head, which is faster; None if the bundle has no such graph."""
        ...


class LiftedScore(Protocol):
    """Computes the score of one target for one picture and a baseline: see `app.models.lifting`."""

    def integrated_gradients(
        self, maps: Maps, baseline: Maps, positions: Float32[np.ndarray, " n"], weights: Float32[np.ndarray, " n"]
    ) -> FeatureMaps[Heatmap]:
        """The evidence of each cell, by a quadrature on [0, 1] over the straight path from the baseline."""
        ...

    def ablated(self, maps: Maps, baseline: Maps, channels: FeatureMaps[np.ndarray]) -> Float32[np.ndarray, " items"]:
        """The score with some channels of the maps replaced by those of the baseline.

        `channels` are integers `[items, n]` for every branch. C, the number of channels of a map, stands for none.
        """
        ...


class Endpoints(NamedTuple):
    """The score of the baseline and the score of the picture, in logits."""

    baseline: float
    picture: float


@dataclass(frozen=True)
class AttributionInput:
    """One picture to explain: its feature maps, the baseline, and the score.

    `baseline` holds the training data's mean maps, which stand for absent evidence. `precomputed_endpoints` and
    `precomputed_gradient` are earlier results of `endpoints()` and `gradient()`. Each saves a pass of the head.
    """

    maps: Maps
    baseline: Maps
    score: Score
    precomputed_endpoints: Endpoints | None = None
    precomputed_gradient: Maps | None = None

    def endpoints(self) -> Endpoints:
        """The scores of the baseline and of the picture, in logits."""
        if self.precomputed_endpoints is not None:
            return self.precomputed_endpoints
        return Endpoints(*self.score.values(batched([self.baseline, self.maps])).tolist())

    def ablated_scores(
        self, channels: Sequence[Mapping[Branch, Int[np.ndarray, " _n"]]]
    ) -> Float32[np.ndarray, " items"]:
        """The score for every item, with the channels of it that are named replaced by their baseline."""
        if self.score.lifted is None:
            return self.score.values(batched([self._ablated(item) for item in channels]))
        none = np.array([], np.int64)
        padded = {
            branch: _padded([item.get(branch, none) for item in channels], len(feature_map))
            for branch, feature_map in self.maps.items()
        }
        return self.score.lifted.ablated(self.maps, self.baseline, FeatureMaps(padded))

    def _ablated(self, channels: Mapping[Branch, Int[np.ndarray, " _n"]]) -> Maps:
        maps = {branch: feature_map.copy() for branch, feature_map in self.maps.items()}
        for branch, replaced in channels.items():
            maps[branch][replaced] = self.baseline[branch][replaced]
        return maps

    def gradient(self) -> Maps:
        """The derivative of the score with respect to the picture's maps."""
        if self.precomputed_gradient is not None:
            return self.precomputed_gradient
        _, gradients = self.score.gradients(batched([self.maps]))
        return next(unbatched(gradients))


@dataclass(frozen=True)
class Completeness:
    """How well a heatmap accounts for the score, in logits.

    `difference` is the picture's score minus the baseline's; `error` is the heatmap's sum minus `difference`.
    """

    difference: float
    error: float

    @property
    def relative_error(self) -> float:
        """|error| / |difference|, where a difference below 0.1 logit counts as 0.1."""
        return abs(self.error) / max(abs(self.difference), 0.1)

    @property
    def is_small(self) -> bool:
        """Whether the relative error is below 0.001."""
        return self.relative_error < 1e-3


@dataclass(frozen=True)
class Attribution:
    """One heatmap for each branch, on the grid of that branch's map.

    `completeness` is None for methods whose values need not add up to the score.
    """

    heatmaps: FeatureMaps[Heatmap]
    completeness: Completeness | None = None


def _padded(groups: Sequence[Int[np.ndarray, " _n"]], filler: int) -> Int[np.ndarray, "groups longest"]:
    """Groups of numbers as the rows of one array, filled up with `filler`."""
    rows = np.full((len(groups), max(map(len, groups))), filler)
    for row, group in zip(rows, groups, strict=True):
        row[: len(group)] = group
    return rows
