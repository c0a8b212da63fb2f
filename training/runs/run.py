"""The folder of a training run, which `fit` writes and `export` reads.

It has `recipe.yaml` with every value of the recipe, `samples.csv` with every picture and its split, `contents.csv` with
what tells whether these pictures have changed, `classes.json`, `log.jsonl`, the folder `checkpoints`, and, when the run
has finished, `ema.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
import yaml
from filelock import FileLock, Timeout
from pydantic import ValidationError

from app.bundles.manifest import Architecture, InputRule
from app.models.cnnswin import CNNViTFusion
from training.data.files import is_file
from training.data.samples import (
    Sample,
    classes_of,
    listed_samples,
    read_training_set,
    refuse_missing,
    refuse_unreadable,
    split_samples,
    write_samples,
)
from training.errors import TrainingProblem
from training.output import refuse_within_data, write_atomically
from training.recipe.config import Recipe, RecipeError
from training.recipe.load import load_recipe
from training.runs.contents import content_marks, write_marks
from training.runs.torch_files import not_finite_tensor
from training.runs.unlabelled import UNLABELLED, read_unlabelled

EXPORTED = ("train", "val", "calibration")  # the splits that the export of a run reads
USED = (*EXPORTED, UNLABELLED)  # those that a run and its export read

# What a run leaves that has not come to its first checkpoint. Nothing in it is worth keeping.
_BEFORE_CHECKPOINTS = {
    *("recipe.yaml", "classes.json", "samples.csv", "contents.csv", "log.jsonl", "checkpoints", "tensorboard", "wandb"),
    "wandb-id",
}


class RunError(TrainingProblem, ValueError):
    """A run that cannot be started, resumed or read. The message says what to do."""


@dataclass(frozen=True)
class Run:
    """A run on disk: its folder, its recipe, its classes and its samples with their splits.

    `remarks` are sentences on how a new run's data was read, and are not stored.
    """

    folder: Path
    recipe: Recipe
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    remarks: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        """The path of the log, with one JSON object per line."""
        return self.folder / "log.jsonl"

    @property
    def contents(self) -> Path:
        """The path of the record of the pictures' contents, which runs of earlier versions lack."""
        return self.folder / "contents.csv"

    @property
    def used_pictures(self) -> list[Path]:
        """The paths of the pictures that the run and its export read, and of those without labels."""
        return [sample.path for sample in self.samples if sample.split in USED]

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
        """Load the averaged weights into a frozen model in eval mode.

        Raises RunError if the run is unfinished, or if a weight is not finite.
        """
        if not self.weights.is_file():
            raise RunError(
                f"{self.folder} has no {self.weights.name}: the run has not finished; continue it with fit … --resume"
            )
        model = self.new_model()
        try:
            safetensors.torch.load_model(model, self.weights, strict=True)
        except (safetensors.SafetensorError, RuntimeError) as error:
            raise RunError(
                f"{self.weights} is damaged, or is not of this recipe ({str(error).splitlines()[0]}): "
                "fit … --resume writes it again"
            ) from error
        if (broken := not_finite_tensor(model.state_dict())) is not None:
            raise RunError(
                f"{self.weights}: {broken} has values that are not finite, so the run has diverged: start a new one "
                "with lower rates"
            )
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
        InputRule(
            height_px=height_px,
            width_px=width_px,
            rule="shortest_side_center_crop",
            interpolation="bicubic",
            stretch=recipe.stretch,
        )
    except ValidationError as error:
        raise ValueError(f"image_size: {height_px} × {width_px} px, where a side has 1 to 4096 px") from error
    for key in ("cnn_options", "swin_options"):
        try:
            json.dumps(getattr(model, key), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{key}: only plain values can be written to a bundle ({error})") from error


def new_run(recipe: Recipe, data: Path, folder: Path, skip_unreadable: int = 0) -> Run:
    """Prepare a run in `folder`, which must be free, without writing. Raises RunError, OutputError and DataError.

    A folder is free if it is new or empty, or if it has a run that ended before its first checkpoint. Files that are no
    pictures are refused now, unless the run may skip some.
    """
    refuse_used(folder)
    refuse_within_data(folder, data)
    if folder.is_dir() and any(folder.iterdir()):
        with lock_run(folder):  # raises if another process is on its way to the first checkpoint
            pass
    # Paths are absolute, so that a run can be resumed from another working directory.
    data_set = read_training_set(data.absolute())
    samples = split_by(recipe, data_set.samples)
    remarks = list(data_set.remarks)
    if recipe.leave_out and (before := sum(sample.split == "test" for sample in data_set.samples)):
        count = sum(sample.split == "test" for sample in samples)
        remarks.append(
            f"test has {count} pictures, of which the data had {before} there already, beside those of leave_out: the "
            "metrics of each value of the column tell them apart"
        )
    if recipe.unlabelled is not None:
        unlabelled, remark = read_unlabelled(recipe.unlabelled.absolute(), samples)
        samples, remarks = [*samples, *unlabelled], [*remarks, remark]
    if not skip_unreadable:
        refuse_unreadable(samples)
    return Run(folder, recipe, classes_of(samples), tuple(samples), tuple(remarks))


def split_by(recipe: Recipe, samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples with the splits that a run of the recipe gives them. Raises DataError."""
    return split_samples(samples, recipe.val_share, recipe.seed, recipe.calibration_share, recipe.leave_out)


def write_run(run: Run) -> None:
    """Write the run's recipe, classes, samples and their contents to its folder. Raises RunError if it is not free."""
    refuse_used(run.folder)
    (run.folder / "wandb-id").unlink(missing_ok=True)  # that of a run that ended before its first checkpoint
    write_samples(run.samples, run.folder / "samples.csv")
    write_marks(content_marks(run.used_pictures), run.contents)
    write_atomically(run.folder / "classes.json", json.dumps(run.classes).encode())
    write_recipe(run)


def write_recipe(run: Run, changes: Sequence[str] = ()) -> None:
    """Write every value of the run's recipe. `changes` are comments for its head, after those that it has."""
    path = run.folder / "recipe.yaml"
    comments = []
    if changes and path.is_file():
        comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
    comments += [f"# {change}" for change in changes]
    values = yaml.safe_dump(run.recipe.model_dump(mode="json"), sort_keys=False)
    write_atomically(path, "\n".join([*comments, values]).encode())


def read_run(folder: Path) -> Run:
    """Read the run in a folder, without the pictures that it skipped and those without labels.

    Raises RunError, also if a picture is missing that its export needs, RecipeError and DataError.
    """
    run, skipped = read_listed_run(folder), skipped_pictures(folder)
    refuse_gone(missing_pictures(run.samples, EXPORTED, skipped), len(skipped))
    return replace(run, samples=_kept(run.samples, skipped))


def kept_samples(folder: Path) -> tuple[Sample, ...]:
    """The pictures with labels in the table of a run's folder, without those that the run skipped.

    Raises RunError, and DataError if a picture or a mask is missing.
    """
    kept = _kept(listed_samples(folder / "samples.csv"), skipped_pictures(folder))
    refuse_missing(kept, folder / "samples.csv")
    return kept


def _kept(samples: Sequence[Sample], skipped: Collection[str]) -> tuple[Sample, ...]:
    return tuple(sample for sample in samples if sample.split != UNLABELLED and str(sample.path) not in skipped)


def missing_pictures(samples: Sequence[Sample], splits: Collection[str], skipped: Collection[str]) -> list[Path]:
    """The paths of the pictures of some splits that are gone, without those that a run skipped."""
    listed = [sample.path for sample in samples if sample.split in splits and str(sample.path) not in skipped]
    return [path for path in listed if not is_file(path)]


def refuse_gone(missing: Sequence[Path], skipped: int) -> None:
    """Raises RunError if any of a run's pictures is missing. `skipped` is the number of those that it skipped."""
    if missing:
        raise RunError(
            f"{len(missing)} of the run's pictures are missing, the first is {missing[0]}: put them back, or go on "
            f"without them: fit … --resume --skip-unreadable {len(missing) + skipped}"
        )


def read_listed_run(folder: Path) -> Run:
    """Read the run in a folder with all pictures of its table, without a look at their files.

    Raises RunError, RecipeError and DataError.
    """
    for name in ("recipe.yaml", "classes.json", "samples.csv"):
        if not (folder / name).is_file():
            raise RunError(f"{folder} has no {name}: give the folder that fit wrote")
    recipe = load_recipe(str(folder / "recipe.yaml"))
    return Run(folder, recipe, _read_classes(folder / "classes.json"), tuple(listed_samples(folder / "samples.csv")))


def skipped_pictures(folder: Path) -> set[str]:
    """The paths of the pictures that a run's log says were skipped because they could not be read."""
    log = folder / "log.jsonl"
    if not log.is_file():
        return set()
    with log.open(encoding="utf-8", errors="replace") as lines:
        marked = [line for line in lines if line.startswith('{"kind": "skipped"')]
    try:
        return {json.loads(line)["picture"] for line in marked}
    except (ValueError, LookupError, TypeError) as error:
        raise RunError(f"{log} is damaged: {error}") from error


def _read_classes(path: Path) -> tuple[str, ...]:
    try:
        classes = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON
        raise RunError(f"{path} is damaged ({error}): restore it from a copy of the run") from error
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes) or len(classes) < 2:
        raise RunError(f"{path} is damaged (it has no list of two or more names): restore it from a copy of the run")
    if len({*classes}) < len(classes):
        raise RunError(f"{path} is damaged (a name is listed twice): restore it from a copy of the run")
    return tuple(classes)


def refuse_used(folder: Path) -> None:
    """Raises RunError for a folder with anything but a run that ended before its first checkpoint."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file: give the folder of a new run")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = {name for name in names if not name.startswith(".")} - _BEFORE_CHECKPOINTS
    if names and (".lock" not in names or others or any((folder / "checkpoints").glob("*.pt"))):
        raise RunError(f"{folder} exists and is not empty: choose another folder, or resume with --resume")


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Lock the run against other processes; make its folder if there is none.

    Raises RunError if another process has the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder / ".lock", blocking=False).acquire()  # loading workers, which are forked, inherit none
    except Timeout as error:
        raise RunError(f"another process is training {folder}: wait for it, or stop it") from error
    with held:
        yield
