"""The runs of an ablation from end to end: each is a run of `fit` in a folder of its own, so that it can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from app.models.cnnswin import FUSIONS, Fusion
from app.progress import tracked
from app.shapes import Float
from training.data.samples import Sample, classes_of
from training.evaluation.comparison import Variant
from training.evaluation.variants import variant_recipes
from training.loading.forward import predict
from training.loading.views import EvaluationSet
from training.loading.workers import loaded
from training.loop.fit import check_run, fit
from training.metrics.calibration import softmax
from training.recipe.config import Recipe
from training.recipe.resuming import result_changes
from training.runs.run import Run, RunError, read_run, refuse_used


def train_runs(
    recipe: Recipe,
    variants: Sequence[str],
    seeds: Sequence[int],
    samples: Sequence[Sample],
    data: Path,
    out: Path,
    report: Callable[[str], None],
) -> tuple[Variant, ...] | None:
    """Train every variant from end to end with every seed. Returns None if a signal stopped a run.

    What any variant cannot be trained with is raised before the first run trains: see `variant_recipes` and `fit`.
    """
    fusions = [fusion for fusion in FUSIONS if fusion in variants]
    recipes, parameters = variant_recipes(recipe, fusions, len(classes_of(samples)))
    # Seeds are the outer loop, so that an interrupted ablation has all variants of its seeds.
    planned = [
        (recipes[fusion].model_copy(update={"seed": seed}), out / f"{fusion}-{seed}")
        for seed in seeds
        for fusion in fusions
    ]
    _check_runs(planned, samples, data)
    runs: dict[Fusion, list[Run]] = {fusion: [] for fusion in fusions}
    for seeded, folder in planned:
        run = finished_run(seeded, data, folder, samples, report)
        if run is None:
            return None
        runs[seeded.model.fusion].append(run)
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


def _check_runs(planned: Sequence[tuple[Recipe, Path]], samples: Sequence[Sample], data: Path) -> None:
    """Check all runs before the first one trains, and the first new run of every variant as `fit` does."""
    checked = set[Fusion]()
    for recipe, folder in planned:
        if _has_run(folder):
            _run_in(folder, recipe, samples)
            continue
        refuse_used(folder)
        if recipe.model.fusion not in checked:
            check_run(recipe, data, folder)
            checked.add(recipe.model.fusion)


def finished_run(
    recipe: Recipe, data: Path, folder: Path, samples: Sequence[Sample], report: Callable[[str], None]
) -> Run | None:
    """Train or resume the run in `folder` until it is finished. Returns None if a signal stopped it.

    Raises RunError if the folder has a run with another result, and what `fit` raises.
    """

    def report_run(message: str) -> None:
        report(f"{folder.name}: {message}")

    if begun := _has_run(folder):
        _run_in(folder, recipe, samples)  # raises now, not after the rest of its training
    if not (folder / "ema.safetensors").is_file() and not fit(recipe, data, folder, report_run, resume=begun):
        return None
    return _run_in(folder, recipe, samples)


def _has_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").is_file()


def _run_in(folder: Path, recipe: Recipe, samples: Sequence[Sample]) -> Run:
    """The run in a folder, with the given recipe's settings of the machine, such as `workers`.

    Raises RunError if its result is that of another recipe or of other data.
    """
    run = read_run(folder)
    advice = "give both again, or choose another --out"
    if other := result_changes(run.recipe, recipe):
        raise RunError(f"{folder} has a run of another recipe, which differs in {', '.join(other)}: {advice}")
    if set(run.samples) != set(samples):
        raise RunError(f"{folder} has a run of other data: {advice}")
    return replace(run, recipe=recipe)


def probabilities_of(run: Run, val: Sequence[Sample]) -> Float[np.ndarray, "n k"]:
    """Return the probabilities that a finished run gives pictures, without temperature."""
    pictures = EvaluationSet(val, run.recipe.model.image_size, run.recipe.stretch)
    model = run.finished_model().to("cuda" if torch.cuda.is_available() else "cpu")
    batches = DataLoader(pictures, 25, num_workers=run.recipe.workers)
    logits = predict(model, tracked(loaded(batches), "val", "batches", len(batches)))
    return softmax(logits.astype(np.float64))
