"""The folder of a training run, which `fit` writes and `export` reads.

It has `recipe.yaml` with every value of the recipe, `samples.csv` with every picture and its split, `classes.json`,
`log.jsonl`, the folder `checkpoints`, and, when the run has finished, `ema.safetensors`.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from pydantic import ValidationError

from app.bundles.manifest import Architecture, InputRule
from app.models.cnnswin import CNNViTFusion
from training.data.samples import Sample, classes_of, load_samples, read_samples, split_samples, write_samples
from training.recipe.config import Recipe, RecipeError, load_recipe
from training.runs.checkpoint import newest_checkpoint, write_atomically


class RunError(ValueError):
    """A run that cannot be started, resumed or read. The message says what to do."""


@dataclass(frozen=True)
class Run:
    """A run on disk: its folder, its recipe, its classes and its samples with their splits."""

    folder: Path
    recipe: Recipe
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]

    @property
    def log(self) -> Path:
        """The path of the log, with one JSON object per line."""
        return self.folder / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def weights(self) -> Path:
        """The path of the averaged weights, which exists when the run has finished."""
        return self.folder / "ema.safetensors"

    def samples_of(self, split: str) -> list[Sample]:
        """Return the samples of one split."""
        return [sample for sample in self.samples if sample.split == split]

    def labels_of(self, split: str) -> list[int]:
        """Return the class indices of the samples of one split."""
        return [self.classes.index(sample.label) for sample in self.samples_of(split)]

    def new_model(self) -> CNNViTFusion:
        """Build the recipe's model with random weights. Raises RecipeError if that is impossible."""
        return build_model(self.recipe, len(self.classes))

    def finished_model(self) -> CNNViTFusion:
        """Load the averaged weights into a frozen model in eval mode. Raises RunError if the run is unfinished."""
        if not self.weights.is_file():
            raise RunError(
                f"{self.folder} has no {self.weights.name}: the run has not finished; continue it with fit … --resume"
            )
        model = self.new_model()
        safetensors.torch.load_model(model, self.weights, strict=True)
        return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def build_model(recipe: Recipe, classes: int) -> CNNViTFusion:
    """Build the recipe's model for a number of classes.

    Raises RecipeError if that is impossible, or if no bundle could say what the model is.
    """
    try:
        _check_manifest_has_room(recipe)
        return CNNViTFusion(classes, **recipe.model.model_dump())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RecipeError(
            f"model: no bundle can have it: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from error
    except ValueError as error:
        raise RecipeError(f"model: it cannot be built ({error})") from error


def _check_manifest_has_room(recipe: Recipe) -> None:
    """Check now what would otherwise be refused when a bundle is written. Raises ValueError."""
    model = recipe.model
    Architecture(**model.model_dump(exclude={"image_size"}))
    height_px, width_px = model.image_size
    try:
        InputRule(height_px=height_px, width_px=width_px, rule="shortest_side_center_crop", interpolation="bicubic")
    except ValidationError as error:
        raise ValueError(f"image_size: {height_px} × {width_px} px, where a side has 1 to 4096 px") from error
    for key in ("cnn_options", "swin_options"):
        try:
            json.dumps(getattr(model, key), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{key}: only plain values can be written to a bundle ({error})") from error


def new_run(recipe: Recipe, data: Path, folder: Path) -> Run:
    """Prepare a run in `folder`, which must be new or empty, without writing. Raises RunError and DataError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} exists and is not empty: choose another folder, or resume with --resume")
    return _planned_run(recipe, data, folder)


def write_run(run: Run) -> None:
    """Create the run's folder, and write its recipe, classes and samples."""
    run.folder.mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_dump(run.recipe.model_dump(mode="json"), sort_keys=False)
    write_samples(run.samples, run.folder / "samples.csv")
    write_atomically(run.folder / "classes.json", json.dumps(run.classes).encode())
    write_atomically(run.folder / "recipe.yaml", recipe.encode())


def resume_run(recipe: Recipe, data: Path, folder: Path) -> tuple[Run, dict[str, Any] | None, list[Path]]:
    """Read the run in `folder` and its newest intact checkpoint.

    Returns the run, the checkpoint's state (None if there is no checkpoint yet), and the paths of damaged checkpoints.
    Raises RunError if there is no run, or if its recipe, classes or pictures differ from the given ones.
    """
    if not (folder / "recipe.yaml").is_file():
        raise RunError(f"{folder} has no run to resume: omit --resume to start one")
    existing = read_run(folder)
    if changed := _differences(existing.recipe.model_dump(mode="json"), recipe.model_dump(mode="json")):
        raise RunError(
            f"the run's recipe differs in {', '.join(changed)}: give the same recipe, {folder / 'recipe.yaml'}"
        )
    run = _planned_run(recipe, data, folder)
    if run.classes != existing.classes:
        raise RunError(
            f"the data's classes are {', '.join(run.classes)}, the run's {', '.join(existing.classes)}: "
            "give the same data"
        )
    if set(run.samples) != set(existing.samples):
        raise RunError(f"{data} is not the data that the run started with, {folder / 'samples.csv'}")
    return existing, *newest_checkpoint(existing.checkpoints)


def read_run(folder: Path) -> Run:
    """Read the run in a folder. Raises RunError and DataError."""
    for name in ("recipe.yaml", "classes.json", "samples.csv"):
        if not (folder / name).is_file():
            raise RunError(f"{folder} has no {name}: give the folder that fit wrote")
    classes = tuple(json.loads((folder / "classes.json").read_text(encoding="utf-8")))
    recipe = load_recipe(str(folder / "recipe.yaml"))
    return Run(folder, recipe, classes, tuple(load_samples(folder / "samples.csv")))


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Lock the run against other processes. Raises RunError if another process has the lock."""
    with (folder / ".lock").open("w") as lock:
        try:
            # flock would be inherited by loading workers, which hold it for seconds after this process is killed.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another process is training {folder}: wait for it, or stop it") from error
        yield


def _planned_run(recipe: Recipe, data: Path, folder: Path) -> Run:
    # Paths are absolute, so that a run can be resumed from another working directory.
    samples = split_samples(read_samples(data.absolute()), recipe.val_share, recipe.seed)
    return Run(folder, recipe, classes_of(samples), tuple(samples))


def _differences(existing: Any, given: Any, path: str = "") -> list[str]:
    if isinstance(existing, dict) and isinstance(given, dict):
        keys = sorted(existing.keys() | given.keys())
        return [d for key in keys for d in _differences(existing.get(key), given.get(key), f"{path}.{key}")]
    return [] if existing == given else [path.removeprefix(".")]
