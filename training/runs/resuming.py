"""Resuming a run: what it goes on with, and in what the given recipe and data differ from its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.data.groups import group_key, value_key
from training.data.samples import DataError, Sample, read_samples
from training.data.split import left_out
from training.recipe.config import Recipe
from training.recipe.resuming import RESUME_RULES, recipe_changes
from training.runs.checkpoint import newest_checkpoint
from training.runs.contents import changed_files, content_marks, is_picture, read_marks, refuse_changed, write_marks
from training.runs.run import (
    USED,
    Run,
    RunError,
    missing_pictures,
    read_listed_run,
    refuse_gone,
    skipped_pictures,
    write_recipe,
)
from training.runs.unlabelled import UNLABELLED


@dataclass(frozen=True)
class ResumedRun:
    """A run to go on with.

    `run` has the recipe that holds from now on and the run's own list of pictures. `state` is that of the newest intact
    checkpoint, or None if there is none yet. `changes` are the allowed changes of the recipe, and `epochs_before` the
    number of epochs that it had. `notes` are sentences for the user. `marks` are those of the pictures' contents.
    """

    run: Run
    state: dict[str, Any] | None
    changes: tuple[str, ...]
    epochs_before: int
    notes: tuple[str, ...]
    marks: Mapping[Path, str | None]

    @property
    def update(self) -> int:
        """The number of updates that the checkpoint has."""
        return 0 if self.state is None else int(self.state["progress"]["update"])

    def record(self) -> None:
        """Write the changes of the recipe, and contents that were not recorded before, into the run's folder."""
        write_marks(self.marks, self.run.contents)
        if self.run.recipe.epochs > self.epochs_before and self.run.weights.is_file():
            self.run.weights.replace(self.run.weights.with_name(f"ema-{self.update:08d}.safetensors"))
        if self.changes:
            write_recipe(self.run, [f"after update {self.update}: {change}" for change in self.changes])


def resume_run(recipe: Recipe, data: Path, folder: Path, skip_unreadable: int = 0) -> ResumedRun:
    """Read the run in `folder` and its newest intact checkpoint.

    The run goes on with the pictures of its own table. What the given data and recipe have in addition or no longer is
    said in the notes, if the guarantee of resuming does not depend on it. `skip_unreadable` pictures may be missing.

    Raises RunError if there is no run, and if the recipe or the labels differ in what may not change (`RESUME_RULES`),
    and DataError if a picture has another content.
    """
    if not (folder / "recipe.yaml").is_file():
        raise RunError(f"{folder} has no run to resume: omit --resume to start one")
    existing = read_listed_run(folder)
    changes = recipe_changes(existing.recipe, recipe)
    if changes.refused:
        key = changes.refused[0].partition(".")[0]
        raise RunError(
            f"the run's recipe differs in {', '.join(changes.refused)}, which may not change on --resume "
            f"({key}: {RESUME_RULES[key].why}): give the same recipe, {folder / 'recipe.yaml'}"
        )
    notes = [*_missing_notes(existing, skip_unreadable), *_data_notes(existing, data.absolute(), skip_unreadable)]
    marks = _compared_marks(existing)
    if not existing.contents.is_file():
        notes.append("the run has no record of its pictures' contents yet: that they are the same cannot be checked")
    state, damaged = newest_checkpoint(existing.checkpoints)
    notes += [f"checkpoint {path} is damaged and was skipped" for path in damaged]
    notes += [f"the recipe has changed: {change}" for change in changes.allowed]
    run = replace(existing, recipe=recipe)
    return ResumedRun(run, state, changes.allowed, existing.recipe.epochs, tuple(notes), marks)


def _compared_marks(run: Run) -> dict[Path, str | None]:
    """The record of the contents of a run's pictures, with those that it lacks. Raises DataError for a changed one."""
    marks = read_marks(run.contents) if run.contents.is_file() else {}
    now = content_marks(run.used_pictures)
    refuse_changed(changed_files(marks, now), run.contents)
    # A picture that could not be used has no mark, and gets none until it can be.
    return {
        path: marks.get(path) or (mark if path not in marks or is_picture(path) else None) for path, mark in now.items()
    }


def _missing_notes(run: Run, allowed: int) -> Iterator[str]:
    """Say which of the run's pictures are gone. Raises RunError if more than `allowed` are gone or were skipped."""
    skipped = skipped_pictures(run.folder)
    missing = missing_pictures(run.samples, USED, skipped)
    if len(missing) + len(skipped) > allowed:
        refuse_gone(missing, len(skipped))
    if missing:
        yield f"{len(missing)} of the run's pictures are missing and will be skipped, the first is {missing[0]}"


def _data_notes(run: Run, data: Path, allowed: int) -> Iterator[str]:
    """Say in what the data differs from the run's table, which counts. Raises RunError for other labels or groups."""
    try:
        given = {sample.path: sample for sample in left_out(read_samples(data), run.recipe.leave_out)}
    except DataError as error:
        if not allowed:
            raise
        yield f"the data is not compared with the run's own list of pictures, which counts ({error})"
        return
    own = {sample.path: sample for sample in run.samples if sample.split != UNLABELLED}
    splits = {sample.split for sample in given.values()}
    draws_calibration = run.recipe.calibration_share > 0 and "calibration" not in splits
    if not own.keys() & given.keys():
        raise RunError(f"{data} is not the data that the run started with, {run.folder / 'samples.csv'}: give the same")
    for path in own.keys() & given.keys():
        _refuse_other_facts(own[path], given[path], run, draws_calibration)
    if unlisted := [path for path in own if path not in given]:
        yield (
            f"{data} no longer has {_count(unlisted)}: the run goes on with them, as its own list has them "
            f"({run.folder / 'samples.csv'}); start a new run to train without them"
        )
    if added := [path for path in given if path not in own]:
        yield f"{data} has gained {_count(added)}: the run does not use them; start a new run to train with them"


def _count(paths: Sequence[Path]) -> str:
    return f"{len(paths)} picture(s), the first is {paths[0]}"


def _refuse_other_facts(own: Sample, given: Sample, run: Run, draws_calibration: bool) -> None:
    """Raises RunError if a picture has another label, group or split than in the run's table.

    The split of the run counts where its recipe drew it: where the data has none, and between train and calibration if
    `draws_calibration`. It is not drawn again, since pictures that were added or lost would change the draw.
    """
    facts = {name: (getattr(own, name), getattr(given, name)) for name in ("label", "group", "split")}
    if draws_calibration and (own.split, given.split) == ("calibration", "train"):
        del facts["split"]
    # The run may have kept another spelling.
    key_of: dict[str, Callable[[str | None], Hashable | None]] = {"group": group_key}
    if run.recipe.balance is not None and (column := run.recipe.balance.column):
        facts[column] = own.columns.get(column), given.columns.get(column)
        key_of[column] = value_key
    for name, (before, now) in facts.items():
        if before == now or (name == "split" and now is None):
            continue
        if name not in key_of or key_of[name](before) != key_of[name](now):
            raise RunError(
                f"{own.path} has the {name} {now} and not {before}, as when the run started: give the same data, or "
                f"start a new run (the run's own list is {run.folder / 'samples.csv'})"
            )
