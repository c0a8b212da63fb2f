"""A run's folder: what `fit` writes, what a resumed run goes on from, what `export` reads.

`recipe.yaml` (resolved), `samples.csv` (every picture and its side of the split), `classes.json`, `log.jsonl`,
`checkpoints/` while it trains, and `ema.safetensors` when it has finished.
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

from app.models.cnnswin import CNNViTFusion
from training.data.samples import Sample, classes_of, load_samples, read_samples, split_samples, write_samples
from training.recipe.config import Recipe, RecipeError, load_recipe
from training.runs.checkpoint import newest_checkpoint, write_atomically


class RunError(ValueError):
    """A run that cannot begin, go on or be read, and what to do."""


@dataclass(frozen=True)
class Run:
    """A run on disk, and what it trains on."""

    folder: Path
    recipe: Recipe
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]

    @property
    def log(self) -> Path:
        """One JSON object a line."""
        return self.folder / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Where training can go on from."""
        return self.folder / "checkpoints"

    @property
    def weights(self) -> Path:
        """The averaged weights of a finished run."""
        return self.folder / "ema.safetensors"

    def samples_of(self, split: str) -> list[Sample]:
        """The samples of one side of the split."""
        return [sample for sample in self.samples if sample.split == split]

    def labels_of(self, split: str) -> list[int]:
        """Their classes, by number."""
        return [self.classes.index(sample.label) for sample in self.samples_of(split)]

    def new_model(self) -> CNNViTFusion:
        """The recipe's model with random weights. Raises RecipeError if none can be built."""
        return build_model(self.recipe, len(self.classes))

    def finished_model(self) -> CNNViTFusion:
        """The model with the averaged weights, in eval mode and frozen. Raises RunError."""
        if not self.weights.is_file():
            raise RunError(f"{self.folder} has no {self.weights.name}: it has not finished; fit … --resume goes on")
        model = self.new_model()
        safetensors.torch.load_model(model, self.weights, strict=True)
        return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def build_model(recipe: Recipe, classes: int) -> CNNViTFusion:
    """The recipe's model. Raises RecipeError if none can be built."""
    try:
        return CNNViTFusion(classes, **recipe.model.model_dump())
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:  # what timm and torch say of bad options
        raise RecipeError(f"model: none can be built of it ({error})") from error


def new_run(recipe: Recipe, data: Path, folder: Path) -> Run:
    """A run in `folder`, which must be new or empty; nothing is written yet. Raises RunError and DataError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} exists and is not empty: choose another folder, or go on with --resume")
    return _planned_run(recipe, data, folder)


def write_run(run: Run) -> None:
    """Make the run's folder, with what it was begun with."""
    run.folder.mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_dump(run.recipe.model_dump(mode="json"), sort_keys=False)
    write_samples(run.samples, run.folder / "samples.csv")
    write_atomically(run.folder / "classes.json", json.dumps(run.classes).encode())
    write_atomically(run.folder / "recipe.yaml", recipe.encode())


def resume_run(recipe: Recipe, data: Path, folder: Path) -> tuple[Run, dict[str, Any] | None, list[Path]]:
    """The run in `folder`, its newest whole checkpoint (None if it has none yet), and torn ones passed over.

    Raises RunError if there is no run, or if its recipe, classes or pictures are not the given ones.
    """
    if not (folder / "recipe.yaml").is_file():
        raise RunError(f"{folder} holds no run to go on with: leave --resume away to begin one")
    existing = read_run(folder)
    if changed := _differences(existing.recipe.model_dump(mode="json"), recipe.model_dump(mode="json")):
        raise RunError(f"the run's recipe differs in {', '.join(changed)}: give the same, {folder / 'recipe.yaml'}")
    run = _planned_run(recipe, data, folder)
    if run.classes != existing.classes:
        raise RunError(
            f"the data's classes are {', '.join(run.classes)}, the run's {', '.join(existing.classes)}: "
            "give the same data"
        )
    if set(run.samples) != set(existing.samples):
        raise RunError(f"{data} is not the data that the run began with, {folder / 'samples.csv'}")
    return existing, *newest_checkpoint(existing.checkpoints)


def read_run(folder: Path) -> Run:
    """The run in a folder. Raises RunError and DataError."""
    for name in ("recipe.yaml", "classes.json", "samples.csv"):
        if not (folder / name).is_file():
            raise RunError(f"{folder} has no {name}: give the folder that fit wrote")
    classes = tuple(json.loads((folder / "classes.json").read_text(encoding="utf-8")))
    recipe = load_recipe(str(folder / "recipe.yaml"))
    return Run(folder, recipe, classes, tuple(load_samples(folder / "samples.csv")))


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keep every other process from writing this run. Raises RunError where one does."""
    with (folder / ".lock").open("w") as lock:
        try:
            # Not flock, which loading workers would inherit, and hold for seconds after this process was killed.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another process is training {folder}: wait for it, or stop it") from error
        yield


def _planned_run(recipe: Recipe, data: Path, folder: Path) -> Run:
    # Absolute, as they are kept, so that a run can go on from another folder.
    samples = split_samples(read_samples(data.absolute()), recipe.val_share, recipe.seed)
    return Run(folder, recipe, classes_of(samples), tuple(samples))


def _differences(existing: Any, given: Any, path: str = "") -> list[str]:
    if isinstance(existing, dict) and isinstance(given, dict):
        keys = sorted(existing.keys() | given.keys())
        return [d for key in keys for d in _differences(existing.get(key), given.get(key), f"{path}.{key}")]
    return [] if existing == given else [path.removeprefix(".")]
