"""A model that was trained before: that of a bundle, or of a finished run."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
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
from training.runs.contents import content_marks, read_marks
from training.runs.run import Run, read_listed_run
from training.runs.unlabelled import UNLABELLED

_KEPT = ("val", "test", "calibration")  # the splits that figures and thresholds are from
# Why it is not known, or not in full, which pictures a model learned from.
_OF_BUNDLE = "a bundle does not say which pictures its model learned from"
_OF_HEIR = "the run started from a bundle or another run, or was taught by one, which learned from pictures of its own"


@dataclass(frozen=True)
class LearnedPictures:
    """What is known of the pictures that a model was trained on or chosen by.

    `paths` are theirs, without links, and `marks` those of their contents (see `content_mark`). `doubt` says why it may
    have learned from others too, and is None if these are all.
    """

    paths: frozenset[Path]
    marks: frozenset[str]
    doubt: str | None


@dataclass(frozen=True)
class TrainedModel:
    """A frozen model in eval mode with how it is built, its classes, its rule for grey values, and a digest of it.

    `learned_from` are the pictures that it was trained on or chosen by, as far as they are known.
    """

    model: CNNViTFusion
    config: ModelConfig
    classes: tuple[str, ...]
    stretch: Stretch
    sha256: str
    learned_from: LearnedPictures


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
        unknown = LearnedPictures(frozenset(), frozenset(), _OF_BUNDLE)
        return TrainedModel(
            load_model(bundle), config, manifest.classes, manifest.input.stretch, bundle.sha256, unknown
        )
    run = read_listed_run(path)
    model = run.finished_model()
    digest = hashlib.sha256(run.weights.read_bytes()).hexdigest()
    return TrainedModel(model, run.recipe.model, run.classes, run.recipe.stretch, digest, _learned_by(run))


def _learned_by(run: Run) -> LearnedPictures:
    splits = ("train", UNLABELLED, *(["val"] if run.recipe.keep == "best" else []))
    paths = [sample.path for sample in run.samples if sample.split in splits]
    # Runs of earlier versions have no record, and their pictures are taken to be what they were.
    recorded = read_marks(run.contents) if run.contents.is_file() else content_marks(paths)
    marks = frozenset(mark for path in paths if (mark := recorded.get(path)) is not None)
    doubt = _OF_HEIR if run.recipe.start.bundle is not None or run.recipe.teachers else None
    return LearnedPictures(frozenset(path.resolve() for path in paths), marks, doubt)


def check_unseen(trained: TrainedModel, samples: Sequence[Sample], key: str) -> str | None:
    """Check that a model did not learn from the pictures that others are judged on, by whatever path.

    `samples` are all pictures of these others. Returns a sentence if that is not known. Raises WeightsError if it did.
    """
    kept = [sample.path for sample in samples if sample.split in _KEPT]
    learned = trained.learned_from
    own = [sample.path for sample in samples if sample.split == "train"]
    if seen := {path for path in kept if path.resolve() in learned.paths} | _copied(kept, learned.marks, own):
        raise WeightsError(
            f"{key}: its model has learned from {len(seen)} of the pictures that are kept for val, test or "
            f"calibration, such as {min(seen)}, or from copies of them: give both the same split, by a column split in "
            "the table"
        )
    if not kept or learned.doubt is None:
        return None
    return f"{key}: {learned.doubt}: figures on val are worth nothing if val was among them"


def _copied(kept: Sequence[Path], learned: Collection[str], own: Sequence[Path]) -> set[Path]:
    """Return the pictures `kept` whose content was learned from.

    Those with a copy among the training pictures `own` are left out: that is a leak of the data itself, which `doctor`
    tells, and no other split of the two would help.
    """
    if not learned:
        return set()
    copied = {path: mark for path, mark in content_marks(kept).items() if mark is not None and mark in learned}
    trained_on = {*content_marks(own).values()} if copied else set()
    return {path for path, mark in copied.items() if mark not in trained_on}


def check_stretch(trained: TrainedModel, stretch: Stretch, key: str) -> None:
    """Raises WeightsError if a model reads grey values by another rule than the recipe."""
    if trained.stretch != stretch:
        raise WeightsError(
            f"{key}: its model was trained with stretch: {trained.stretch}, and the recipe has {stretch}: give the same"
        )
