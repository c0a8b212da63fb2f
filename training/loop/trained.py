"""A model that was trained before: that of a bundle, or of a finished run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.bundles.manifest import MANIFEST
from app.bundles.reader import read_bundle
from app.engines.torch import load_model
from app.models.cnnswin import CNNViTFusion
from app.pictures.bit_depth import Stretch
from training.data.samples import Sample
from training.loop.checkpoint_files import WeightsError
from training.recipe.config import ModelConfig
from training.runs.run import read_listed_run
from training.runs.unlabelled import UNLABELLED

_KEPT = ("val", "test", "calibration")  # the splits that figures and thresholds are from


@dataclass(frozen=True)
class TrainedModel:
    """A frozen model in eval mode with how it is built, its classes, its rule for grey values, and a digest of it.

    `learned_from` are the pictures that it was trained on or chosen by, or None if that is not known, as of a bundle.
    """

    model: CNNViTFusion
    config: ModelConfig
    classes: tuple[str, ...]
    stretch: Stretch
    sha256: str
    learned_from: frozenset[Path] | None


def read_trained(path: Path, key: str) -> TrainedModel:
    """Read the model in the folder of a bundle or of a finished run.

    Raises WeightsError, which names the recipe's `key`, if there is no folder, and what reading raises.
    """
    if not path.is_dir():
        raise WeightsError(f"{key}: {path} is no folder: give that of a bundle, or of a finished run")
    if (path / MANIFEST).is_file():
        bundle = read_bundle(path)
        manifest = bundle.manifest
        size = (manifest.input.height_px, manifest.input.width_px)
        config = ModelConfig(image_size=size, **manifest.architecture.model_dump())
        return TrainedModel(load_model(bundle), config, manifest.classes, manifest.input.stretch, bundle.sha256, None)
    run = read_listed_run(path)
    splits = ("train", UNLABELLED, *(["val"] if run.recipe.keep == "best" else []))
    learned_from = frozenset(sample.path.resolve() for sample in run.samples if sample.split in splits)
    model = run.finished_model()
    digest = hashlib.sha256(run.weights.read_bytes()).hexdigest()
    return TrainedModel(model, run.recipe.model, run.classes, run.recipe.stretch, digest, learned_from)


def check_unseen(trained: TrainedModel, samples: Sequence[Sample], key: str) -> str | None:
    """Check that a model did not learn from the pictures that others are judged on.

    Returns a sentence if that is not known. Raises WeightsError if it did.
    """
    kept = {sample.path.resolve() for sample in samples if sample.split in _KEPT}
    if not kept:
        return None
    if trained.learned_from is None:
        return (
            f"{key}: a bundle does not say which pictures its model learned from: figures on val are worth nothing if "
            "val was among them"
        )
    if seen := kept & trained.learned_from:
        raise WeightsError(
            f"{key}: its model has learned from {len(seen)} of the pictures that are kept for val, test or "
            f"calibration, such as {min(seen)}: give both the same split, by a column split in the table"
        )
    return None


def check_stretch(trained: TrainedModel, stretch: Stretch, key: str) -> None:
    """Raises WeightsError if a model reads grey values by another rule than the recipe."""
    if trained.stretch != stretch:
        raise WeightsError(
            f"{key}: its model was trained with stretch: {trained.stretch}, and the recipe has {stretch}: give the same"
        )
