"""The score that is explained: a weighted sum of the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from app.engines.protocol import Engine
from app.explain.attribution import Batch
from app.models.feature_maps import FeatureMaps


def target_weights(classes: Sequence[str], target: str | None, against: str | None) -> Float32[np.ndarray, " classes"]:
    """The weights of the logits in the score: 1 for `target`, -1 for `against`, and 0 for all other classes."""
    return np.array([float(name == target) - float(name == against) for name in classes], dtype=np.float32)


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
