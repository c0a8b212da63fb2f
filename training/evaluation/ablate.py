"""Ablation of the fusion: every variant is trained in the same way with several seeds, and compared on val.

Each run is a run of `fit` in a folder of its own, so that an interrupted ablation can be resumed. The comparison uses
the averaged weights of the last epoch, so that nothing is selected on val.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from app.models.cnnswin import FUSIONS, Fusion
from app.progress import tracked
from app.shapes import Float
from training.data.samples import (
    DataError,
    Sample,
    classes_of,
    read_samples,
    read_training_set,
    write_samples,
)
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
from training.evaluation.frozen_trunks import DIRECTIONS, read_trunk, train_heads
from training.evaluation.variants import variant_recipes
from training.loading.forward import predict
from training.loading.views import EvaluationSet
from training.loading.workers import loaded
from training.loop.fit import fit
from training.loop.trained import check_unseen, read_trained
from training.metrics.calibration import softmax
from training.metrics.classification import resamples
from training.output import write_atomically
from training.recipe.config import Recipe, RecipeError
from training.runs.run import Run, RunError, read_run, split_by
from training.runs.unlabelled import UNLABELLED

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

    Returns None if a signal stopped a run. Raises RecipeError or DataError before any run for a wrong recipe or data,
    RunError, and what `fit` raises.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError("ablate trains its runs one after another in a single process: start it without torchrun")
    chosen = _parse_variants(variants, HEADS if trunk else FUSIONS)
    if seeds < 2:
        raise RecipeError(f"--seeds {seeds}: a standard deviation needs two or more seeds")
    table = _data_with_split(recipe, data.absolute(), out.absolute(), report)
    samples = split_by(recipe, read_samples(table))
    val = [sample for sample in samples if sample.split == "val"]
    pictures = labelled_pictures(val, classes_of(samples))
    if pictures.fewest_groups < MIN_GROUPS:
        report(f"val has {pictures.fewest_groups} groups of its rarest class: a verdict needs {MIN_GROUPS}")
    seed_numbers = tuple(range(recipe.seed, recipe.seed + seeds))
    if trunk is None:
        trained = _train_runs(recipe, chosen, seed_numbers, samples, table, out, report)
        if trained is None:
            report("stopped: the same command continues from here")
            return None
    else:
        model = read_trained(trunk, "--trunk")
        if (remark := check_unseen(model, samples, "--trunk")) is not None:
            report(remark)
        fixed = read_trunk(model, samples, classes_of(samples), recipe, out)
        trained = train_heads(fixed, recipe, chosen, seed_numbers, out, report)
    name = None if trunk is None else trunk.resolve().name
    ablation = Ablation(recipe.name, seed_numbers, pictures, trained, compare(trained, pictures), name)
    document = json.dumps(ablation.document(), indent=2, allow_nan=False)
    write_atomically(out / "ablation.json", f"{document}\n".encode())
    write_atomically(out / "ablation.md", f"{ablation.text()}\n".encode())
    return ablation


def _train_runs(
    recipe: Recipe,
    variants: Sequence[str],
    seeds: Sequence[int],
    samples: Sequence[Sample],
    data: Path,
    out: Path,
    report: Callable[[str], None],
) -> tuple[Variant, ...] | None:
    """Train every variant from end to end. Returns None if a signal stopped a run."""
    fusions = [fusion for fusion in FUSIONS if fusion in variants]
    recipes, parameters = variant_recipes(recipe, fusions, len(classes_of(samples)))
    runs: dict[Fusion, list[Run]] = {fusion: [] for fusion in fusions}
    for seed in seeds:  # the outer loop, so that an interrupted ablation has all variants of its seeds
        for fusion in fusions:
            seeded = recipes[fusion].model_copy(update={"seed": seed})
            run = finished_run(seeded, data, out / f"{fusion}-{seed}", samples, report)
            if run is None:
                return None
            runs[fusion].append(run)
    val = [sample for sample in samples if sample.split == "val"]
    return tuple(
        Variant(
            fusion,
            recipes[fusion].model.dim,
            parameters[fusion],
            np.stack([probabilities_of(run, val) for run in variant_runs]),
        )
        for fusion, variant_runs in runs.items()
    )


def _parse_variants(variants: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    if variants is None:
        return tuple(known)
    if unknown := [name for name in variants if name not in known]:
        raise RecipeError(f"unknown variant {', '.join(unknown)}: choose from {', '.join(known)}")
    chosen = tuple(name for name in known if name in variants)
    if REFERENCE not in chosen or len(chosen) < 2:
        raise RecipeError(f"--variants needs {REFERENCE} and at least one other variant")
    return chosen


def _data_with_split(recipe: Recipe, data: Path, out: Path, report: Callable[[str], None]) -> Path:
    """Return data with one split for the runs of all seeds, and report how it was read.

    Data that has a split is returned as it is. Otherwise the split of the recipe's seed is written to a table in `out`.
    The pictures are linked beside the table, because its paths must stay below its folder.
    """
    data_set = read_training_set(data)
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


def finished_run(
    recipe: Recipe, data: Path, folder: Path, samples: Sequence[Sample], report: Callable[[str], None]
) -> Run | None:
    """Train or resume the run in `folder` until it is finished. Returns None if a signal stopped it."""
    recipe_file, weights = folder / "recipe.yaml", folder / "ema.safetensors"

    def report_run(message: str) -> None:
        report(f"{folder.name}: {message}")

    if not weights.is_file() and not fit(recipe, data, folder, report_run, resume=recipe_file.is_file()):
        return None
    run = read_run(folder)
    if run.recipe.model_dump(mode="json") != recipe.model_dump(mode="json") or _labelled(run) != set(samples):
        raise RunError(
            f"{folder} has a run of another recipe or of other data: give both again, or choose another --out"
        )
    return run


def _labelled(run: Run) -> set[Sample]:
    return {sample for sample in run.samples if sample.split != UNLABELLED}


def probabilities_of(run: Run, val: Sequence[Sample]) -> Float[np.ndarray, "n k"]:
    """Return the probabilities that a finished run gives pictures, without temperature."""
    pictures = EvaluationSet(val, run.recipe.model.image_size, run.recipe.stretch)
    model = run.finished_model().to("cuda" if torch.cuda.is_available() else "cpu")
    batches = DataLoader(pictures, 25, num_workers=run.recipe.workers)
    logits = predict(model, tracked(loaded(batches), "val", "batches", len(batches)))
    return softmax(logits.astype(np.float64))
