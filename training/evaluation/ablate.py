"""Ablation of the fusion: every variant is trained in the same way with several seeds, and compared on val.

Each variant is a whole model (`variant_runs`), or a head on a fixed trunk (`frozen_trunks`). Either way, the averaged
weights of the last epoch are compared, so that nothing is selected on val.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from app.bundles.manifest import MANIFEST
from app.models.cnnswin import FUSIONS
from training.data.samples import DataError, Sample, classes_of, read_samples, read_training_set, write_samples
from training.evaluation.comparison import (
    MIN_GROUPS,
    REFERENCE,
    REPEATS,
    SEED,
    Ablation,
    LabelledPictures,
    Variant,
    compare,
)
from training.evaluation.frozen_trunks import check_heads, head_epochs, read_trunk, train_heads
from training.evaluation.heads import DIRECTIONS
from training.evaluation.variant_runs import train_runs
from training.evaluation.variants import comparable_recipe
from training.loop.trained import check_unseen, read_trained
from training.metrics.classification import resamples
from training.output import OutputError, make_folder, write_atomically
from training.recipe.config import Recipe, RecipeError
from training.runs.run import RunError, split_by

HEADS = (*FUSIONS, *DIRECTIONS)  # the variants on a fixed trunk


def ablate(
    recipe: Recipe,
    data: Path,
    out: Path,
    seeds: int,
    variants: Sequence[str] | None,
    report: Callable[[str], None],
    trunk: Path | None = None,
) -> Ablation | None:
    """Train every variant with `seeds` seeds, compare them, and write `ablation.json` and `ablation.md` to `out`.

    Without `variants`, all are compared. The seeds count up from the recipe's. The run of a variant and seed is in
    `out/<variant>-<seed>`; a finished run is reused, and an unfinished one is resumed. With a `trunk`, the folder of a
    bundle or a finished run, only heads are trained, on the maps of that model. `report` receives the messages.

    Returns None if a signal stopped a run. Before any run, raises RecipeError, DataError, WeightsError or RunError if
    one of the variants cannot be trained, and OutputError if `out` cannot be written or belongs to a model. After that,
    raises what `fit` raises while it trains.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError("ablate trains its runs one after another in a single process: start it without torchrun")
    chosen = _parse_variants(variants, trunk is not None)
    if seeds < 2:
        raise RecipeError(f"--seeds {seeds}: a standard deviation needs two or more seeds")
    _refuse_within_model(out, recipe, trunk)
    recipe, sentences = comparable_recipe(recipe)
    for sentence in sentences:
        report(sentence)
    table = _data_with_split(recipe, data.absolute(), out.absolute(), report)
    samples = split_by(recipe, read_samples(table))
    val = [sample for sample in samples if sample.split == "val"]
    pictures = labelled_pictures(val, classes_of(samples))
    if pictures.fewest_groups < MIN_GROUPS:
        report(f"val has {pictures.fewest_groups} groups of its rarest class: a verdict needs {MIN_GROUPS}")
    seed_numbers = tuple(range(recipe.seed, recipe.seed + seeds))
    if trunk is None:
        trained = train_runs(recipe, chosen, seed_numbers, samples, table, out, report)
    else:
        trained = _train_on(trunk, recipe, chosen, seed_numbers, samples, out, report)
    if trained is None:
        report("stopped: the same command continues from here")
        return None
    trunk_name, start = (None if folder is None else folder.resolve().name for folder in (trunk, recipe.start.bundle))
    compared = compare(trained, pictures)
    ablation = Ablation(
        recipe.name, seed_numbers, pictures, trained, compared, trunk_name, start if trunk is None else None
    )
    document = json.dumps(ablation.document(), indent=2, allow_nan=False)
    write_atomically(out / "ablation.json", f"{document}\n".encode())
    write_atomically(out / "ablation.md", f"{ablation.text()}\n".encode())
    return ablation


def _train_on(
    trunk: Path,
    recipe: Recipe,
    variants: Sequence[str],
    seeds: Sequence[int],
    samples: Sequence[Sample],
    out: Path,
    report: Callable[[str], None],
) -> tuple[Variant, ...]:
    """Train the heads of all variants on the maps of the model in the folder `trunk`."""
    model, classes = read_trained(trunk, "--trunk"), classes_of(samples)
    if (remark := check_unseen(model, samples, "--trunk")) is not None:
        report(remark)
    if (epochs := head_epochs(recipe)) < recipe.epochs:
        report(f"heads are trained for {epochs} of the {recipe.epochs} epochs: in the others the recipe freezes them")
    check_heads(model, samples, classes, recipe, variants)
    return train_heads(read_trunk(model, samples, classes, recipe, out), recipe, variants, seeds, out, report)


def _parse_variants(variants: Sequence[str] | None, on_trunk: bool) -> tuple[str, ...]:
    """The variants in the order of the tables. Raises RecipeError."""
    known = HEADS if on_trunk else FUSIONS
    if variants is None:
        return known
    given = [name.strip() for name in variants]
    if unknown := [name for name in given if name not in HEADS]:
        raise RecipeError(f"unknown variant {', '.join(unknown)}: choose from {', '.join(known)}")
    if directions := [name for name in given if name not in known]:
        raise RecipeError(
            f"--variants: {' and '.join(directions)} can only be compared on a fixed trunk: give --trunk too, or "
            f"choose from {', '.join(known)}"
        )
    chosen = tuple(name for name in known if name in given)
    if REFERENCE not in chosen or len(chosen) < 2:
        raise RecipeError(f"--variants needs {REFERENCE} and at least one other variant")
    return chosen


def _refuse_within_model(out: Path, recipe: Recipe, trunk: Path | None) -> None:
    """Raises OutputError if `out` is a bundle or a run, or lies in the folder of a model that is read."""
    if (out / MANIFEST).is_file() or (out / "recipe.yaml").is_file():
        raise OutputError(f"{out} is the folder of a bundle or a run: choose another folder")
    place = Path(os.path.realpath(out))  # where `resolve` raises for links in a circle
    for folder in (trunk, recipe.start.bundle, *recipe.teachers):
        if folder is not None and place.is_relative_to(os.path.realpath(folder)):
            raise OutputError(f"{out} lies in {folder}, the folder of a model that is read: choose another folder")


def _data_with_split(recipe: Recipe, data: Path, out: Path, report: Callable[[str], None]) -> Path:
    """Return data with one split for the runs of all seeds, and report how it was read.

    Data that has a split is returned as it is. Otherwise the split of the recipe's seed is written to a table in `out`.
    The pictures are linked beside the table, because its paths must stay below its folder. Makes the folder `out`.
    Raises DataError, and OutputError if `out` cannot be written.
    """
    data_set = read_training_set(data)
    make_folder(out)
    splits = {sample.split for sample in data_set.samples}
    if splits != {None} and (recipe.calibration_share == 0 or "calibration" in splits):
        return data  # the runs report how it was read
    for remark in data_set.remarks:
        report(f"data: {remark}")
    root, folder = data if data.is_dir() else data.parent, out / "data"
    samples = split_by(recipe, data_set.samples)
    write_samples(samples, folder / "labels.csv", lambda file: Path("pictures", file.relative_to(root)))
    (folder / "pictures").unlink(missing_ok=True)
    (folder / "pictures").symlink_to(root, target_is_directory=True)
    return folder


def labelled_pictures(val: Sequence[Sample], classes: Sequence[str]) -> LabelledPictures:
    """Return the class indices and groups of pictures. Raises DataError if they are too few for intervals."""
    labels = np.array([classes.index(sample.label) for sample in val])
    groups = tuple(sample.group or str(sample.path) for sample in val)
    try:
        list(resamples(labels, groups, REPEATS, SEED))  # raises now, not after all the training
    except ValueError as error:
        raise DataError(f"val: {error}") from error
    return LabelledPictures(labels, groups)
