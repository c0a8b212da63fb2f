"""A model that was trained before: that of a bundle, or of a finished run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from app.bundles.manifest import MANIFEST
from app.bundles.reader import read_bundle
from app.engines.torch import load_model
from app.models.cnnswin import CNNViTFusion
from training.loop.checkpoint_files import WeightsError
from training.runs.run import read_listed_run


@dataclass(frozen=True)
class TrainedModel:
    """A frozen model in eval mode with its classes, and a digest of what it was read from."""

    model: CNNViTFusion
    classes: tuple[str, ...]
    sha256: str


def read_trained(path: Path, key: str) -> TrainedModel:
    """Read the model in the folder of a bundle or of a finished run.

    Raises WeightsError, which names the recipe's `key`, if there is no folder, and what reading raises.
    """
    if not path.is_dir():
        raise WeightsError(f"{key}: {path} is no folder: give that of a bundle, or of a finished run")
    if (path / MANIFEST).is_file():
        bundle = read_bundle(path)
        return TrainedModel(load_model(bundle), bundle.manifest.classes, bundle.sha256)
    run = read_listed_run(path)
    return TrainedModel(run.finished_model(), run.classes, hashlib.sha256(run.weights.read_bytes()).hexdigest())
