"""The input and the result of the explanation methods.

A method takes a picture's feature maps, the baseline (the training data's mean maps), and the score as a function of
the maps. The score is one logit, or one logit minus another. The head is passed as an object that computes it, so that
all methods are pure numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from app.explain.merge import Heatmap
from app.models.feature_maps import Branch, FeatureMaps, batched, unbatched
from app.shapes import Float, Float32, Int

Maps = Mapping[Branch, Float32[np.ndarray, "c h w"]]
Channels = Int[np.ndarray, " _n"]
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

    def path_evidence(
        self, maps: Maps, baseline: Maps, positions: Float[np.ndarray, " nodes"]
    ) -> FeatureMaps[Float32[np.ndarray, "nodes _h _w"]]:
        """The change of each cell times the gradient, at some positions on the path from the baseline to the maps."""
        ...

    def ablated(self, maps: Maps, baseline: Maps, groups: FeatureMaps[np.ndarray]) -> Float32[np.ndarray, " groups"]:
        """The score for each group of channels of one map with these replaced by their baseline.

        `groups` are integers `[groups, channels]` for every branch; C, a map's number of channels, stands for none.
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

    def ablated_scores(self, groups: Mapping[Branch, Sequence[Channels]]) -> Float32[np.ndarray, " groups"]:
        """The score for each group of channels of one map with these replaced by their baseline.

        The groups of all branches follow each other.
        """
        if self.score.lifted is None:
            return self.score.values(batched([*self._ablated(groups)]))
        padded = {branch: _padded(groups[branch], len(feature_map)) for branch, feature_map in self.maps.items()}
        return self.score.lifted.ablated(self.maps, self.baseline, FeatureMaps(padded))

    def _ablated(self, groups: Mapping[Branch, Sequence[Channels]]) -> Iterator[Maps]:
        for branch, of_branch in groups.items():
            for channels in of_branch:
                feature_map = self.maps[branch].copy()
                feature_map[channels] = self.baseline[branch][channels]
                yield {**self.maps, branch: feature_map}

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


def _padded(groups: Sequence[Channels], filler: int) -> Int[np.ndarray, "groups longest"]:
    """Groups of numbers as the rows of one array, filled up with `filler`."""
    rows = np.full((len(groups), max(map(len, groups))), filler)
    for row, group in zip(rows, groups, strict=True):
        row[: len(group)] = group
    return rows
