"""What the trust part is fitted to: pooled maps, single cells, logits and sharpness of labelled pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from app.bundles.manifest import Manifest
from app.engines.protocol import Engine
from app.models.feature_maps import Branch, FeatureMaps, to_float16, to_float32, unbatched
from app.shapes import Bool, Float, Int, UInt8
from app.trust.foreign_parts import ForeignParts, cells_of
from app.trust.novelty import BranchResidual, Pooled, pooled
from app.trust.quality import sharpness
from training.data.samples import DataError, Sample
from training.loading.forward import prepared_batches, to_engine_batches
from training.spelling import normalised

_BATCH = 8
_CELLS, _OF_A_PICTURE = 20_000, 16  # of all pictures and of each, at most
_SEED = 0


@dataclass(frozen=True, eq=False)
class Observed:
    """Pictures as a model sees them: `labels` are indices of its classes, `groups` the names of their groups.

    `highest` is the highest distance in each picture's map of foreign parts; None if the bundle has none.
    """

    features: Pooled
    logits: Float[np.ndarray, "n k"]
    sharpness: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    groups: tuple[str, ...]
    highest: Float[np.ndarray, " n"] | None = None

    def only(self, kept: Bool[np.ndarray, " n"] | Int[np.ndarray, " m"]) -> Observed:
        """Some of the pictures, by a mask or by their places."""
        groups = tuple(np.array(self.groups, object)[kept].tolist())
        features = {branch: of_branch[kept] for branch, of_branch in self.features.items()}
        highest = None if self.highest is None else self.highest[kept]
        return Observed(features, self.logits[kept], self.sharpness[kept], self.labels[kept], groups, highest)


def observe(
    engine: Engine,
    manifest: Manifest,
    samples: Sequence[Sample],
    look: Callable[[FeatureMaps[np.ndarray]], None] | None = None,
) -> Observed:
    """Run the model on labelled pictures. `look` is called with the maps of each.

    A picture without a group is a group of its own. Raises DataError for a label that is no class of the model, and for
    a picture that cannot be read.
    """
    index_of = {normalised(name): index for index, name in enumerate(manifest.classes)}
    if unknown := sorted({normalised(sample.label) for sample in samples} - index_of.keys()):
        raise DataError(
            f"the bundle's classes are {', '.join(manifest.classes)}, but pictures are labelled {', '.join(unknown)}"
        )
    size = (manifest.input.height_px, manifest.input.width_px)
    features, logits, sharp = [], [], []
    for images in to_engine_batches(prepared_batches(samples, size, manifest.input.stretch, _BATCH)):
        maps = stored_maps(engine, images)
        features.append(pooled(maps))
        logits.append(engine.classify(maps))
        sharp += [sharpness(image) for image in images]
        if look is not None:
            for of_picture in unbatched(maps):
                look(of_picture)
    labels = np.array([index_of[normalised(sample.label)] for sample in samples])
    groups = tuple(sample.group if sample.group is not None else str(sample.path) for sample in samples)
    return Observed(_joined(features), np.concatenate(logits), np.array(sharp), labels, groups)


def stored_maps(engine: Engine, images: UInt8[np.ndarray, "b h w 3"]) -> FeatureMaps[np.ndarray]:
    """The maps of pictures, float32 `[b, c, h, w]`, rounded as the service rounds them."""
    return engine.encode(images).map(to_float16).map(to_float32)


def observe_parts(
    engine: Engine, manifest: Manifest, samples: Sequence[Sample], parts: Mapping[Branch, BranchResidual] | None
) -> Observed:
    """`observe`, and how foreign the most foreign part of each picture is. Raises DataError."""
    if parts is None:
        return observe(engine, manifest, samples)
    compared, highest = ForeignParts(parts, np.zeros(0)), list[float]()
    seen = observe(engine, manifest, samples, lambda maps: highest.append(float(compared.distances(maps).max())))
    return replace(seen, highest=np.array(highest))


def observe_cells(
    engine: Engine, manifest: Manifest, samples: Sequence[Sample]
) -> tuple[Observed, dict[Branch, Float[np.ndarray, "m _c"]]]:
    """`observe`, and some cells of each picture, drawn at random. Raises DataError."""
    rng, drawn = np.random.default_rng(_SEED), list[dict[Branch, np.ndarray]]()
    of_each = max(1, min(_OF_A_PICTURE, _CELLS // len(samples)))

    def draw(maps: FeatureMaps[np.ndarray]) -> None:
        cells = {branch: cells_of(to_float16(of_branch)) for branch, of_branch in maps.items()}
        drawn.append({branch: each[rng.permutation(len(each))[:of_each]] for branch, each in cells.items()})

    return observe(engine, manifest, samples, draw), _joined(drawn)


def _joined(parts: Iterable[Mapping[Branch, np.ndarray]]) -> dict[Branch, np.ndarray]:
    listed = list(parts)
    return {branch: np.concatenate([part[branch] for part in listed]) for branch in listed[0]}
