"""The score that is explained: a weighted sum of the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.engines.protocol import Engine
from app.explain.attribution import Batch, Maps
from app.models.feature_maps import FeatureMaps
from app.shapes import Float, Float32


def target_weights(classes: Sequence[str], target: str | None, against: str | None) -> Float32[np.ndarray, " classes"]:
    """The weights of the logits in the score: 1 for `target`, -1 for `against`, and 0 for all other classes."""
    return np.array([float(name == target) - float(name == against) for name in classes], dtype=np.float32)


@dataclass(frozen=True)
class LiftedHeadScore:
    """The weighted sum of an engine's logits, through the lifted head. Implements `attribution.LiftedScore`."""

    engine: Engine
    weights: Float[np.ndarray, " classes"]

    def path_evidence(
        self, maps: Maps, baseline: Maps, positions: Float[np.ndarray, " nodes"]
    ) -> FeatureMaps[Float32[np.ndarray, "nodes _h _w"]]:
        """See `LiftedScore.path_evidence`."""
        targets = self.weights[None]
        evidence = self.engine.path_evidence(FeatureMaps(maps), FeatureMaps(baseline), positions, targets)
        return evidence.map(lambda of_targets: of_targets[:, 0])

    def ablated(self, maps: Maps, baseline: Maps, groups: FeatureMaps[np.ndarray]) -> Float32[np.ndarray, " groups"]:
        """See `LiftedScore.ablated`."""
        logits = self.engine.ablated_logits(FeatureMaps(maps), FeatureMaps(baseline), groups)
        return np.asarray(logits @ self.weights, dtype=np.float32)


@dataclass(frozen=True)
class HeadScore:
    """The weighted sum of an engine's logits. Implements `app.explain.attribution.Score`."""

    engine: Engine
    weights: Float[np.ndarray, " classes"]

    def values(self, maps: Batch) -> Float32[np.ndarray, " b"]:
        """See `Score.values`."""
        return np.asarray(self.engine.classify(FeatureMaps(maps)) @ self.weights, dtype=np.float32)

    def gradients(self, maps: Batch) -> tuple[Float32[np.ndarray, " b"], Batch]:
        """See `Score.gradients`."""
        size = len(next(iter(maps.values())))
        head = self.engine.explain(FeatureMaps(maps), np.tile(self.weights, (size, 1)))
        return np.asarray(head.logits @ self.weights, dtype=np.float32), head.gradients

    @property
    def lifted(self) -> LiftedHeadScore | None:
        """See `Score.lifted`."""
        return LiftedHeadScore(self.engine, self.weights) if self.engine.is_lifted else None
