"""What the trust part is fitted to: pooled maps, logits and sharpness of labelled pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from app.bundles.manifest import Manifest
from app.engines.protocol import Engine
from app.models.feature_maps import to_float16, to_float32
from app.shapes import Bool, Float, Int, UInt8
from app.trust.novelty import Pooled, pooled
from app.trust.quality import sharpness
from training.data.names import normalised
from training.data.samples import DataError, Sample
from training.loading.forward import prepared_batches

_BATCH = 8


@dataclass(frozen=True, eq=False)
class Observed:
    """Pictures as a model sees them: `labels` are indices of its classes, `groups` the names of their groups."""

    features: Pooled
    logits: Float[np.ndarray, "n k"]
    sharpness: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    groups: tuple[str, ...]

    def only(self, kept: Bool[np.ndarray, " n"] | Int[np.ndarray, " m"]) -> Observed:
        """Some of the pictures, by a mask or by their places."""
        groups = tuple(np.array(self.groups, object)[kept].tolist())
        features = {branch: of_branch[kept] for branch, of_branch in self.features.items()}
        return Observed(features, self.logits[kept], self.sharpness[kept], self.labels[kept], groups)


def observe(engine: Engine, manifest: Manifest, samples: Sequence[Sample]) -> Observed:
    """Run the model on labelled pictures.

    A picture without a group is a group of its own. Raises DataError for a label that is no class of the model, and for
    a picture that cannot be read.
    """
    index_of = {normalised(name): index for index, name in enumerate(manifest.classes)}
    if unknown := sorted({normalised(sample.label) for sample in samples} - index_of.keys()):
        raise DataError(
            f"the bundle's classes are {', '.join(manifest.classes)}, but pictures are labelled {', '.join(unknown)}"
        )
    size = (manifest.input.height_px, manifest.input.width_px)
    batches = prepared_batches(samples, size, manifest.input.stretch, _BATCH)
    features, logits, sharp = _run(engine, (np.ascontiguousarray(b.permute(0, 2, 3, 1).numpy()) for b in batches))
    labels = np.array([index_of[normalised(sample.label)] for sample in samples])
    groups = tuple(sample.group if sample.group is not None else str(sample.path) for sample in samples)
    return Observed(features, logits, sharp, labels, groups)


def _run(
    engine: Engine, batches: Iterable[UInt8[np.ndarray, "b h w 3"]]
) -> tuple[Pooled, Float[np.ndarray, "n k"], Float[np.ndarray, " n"]]:
    parts, logits, sharp = [], [], []
    for images in batches:
        maps = engine.encode(images).map(to_float16).map(to_float32)  # rounded as the service rounds them
        parts.append(pooled(maps))
        logits.append(engine.classify(maps))
        sharp += [sharpness(image) for image in images]
    features = {branch: np.concatenate([part[branch] for part in parts]) for branch in parts[0]}
    return features, np.concatenate(logits), np.array(sharp)
