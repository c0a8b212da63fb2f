"""The section of the speed of training: `fit` against a plain loop, in float32 and in bfloat16."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.fit_speed import GOAL, WHOLE, epoch_of_each
from benchmarks.gpu.effort import Effort
from benchmarks.gpu.notes import Notes
from training.data.draw import draw_dataset
from training.data.samples import read_samples
from training.recipe.config import ModelConfig, Recipe

PRECISIONS = ("fp32", "bf16")


def measure(notes: Notes, effort: Effort, device: str, folder: Path) -> None:
    """Keep the pictures per second of both loops in each round, and the share of `fit`'s time that it waited.

    The first round of a precision does not count.
    """
    draw_dataset(folder / "data", effort.drawn_pictures, seed=0)
    samples = read_samples(folder / "data", "train")
    repeated = [samples[number % len(samples)] for number in range(effort.epoch_pictures)]
    facts = {"batch_size": effort.batch_size, "workers": effort.workers, "epoch_pictures": effort.epoch_pictures}
    notes.keep("facts", facts | {"tf32_convolutions": torch.backends.cudnn.allow_tf32, "goal": GOAL})
    rounds: dict[str, list[dict[str, float]]] = {precision: [] for precision in PRECISIONS}
    for number in range(effort.epochs_of_each + 1):
        for precision in PRECISIONS:
            if notes.has_time(15, f"round {number} in {precision}"):
                recipe = recipe_of(effort, precision)
                row = epoch_of_each(folder / "data", repeated, recipe, folder / "run", device)
                if number > 0:
                    rounds[precision].append(row)
                    notes.keep("rounds", rounds)


def recipe_of(effort: Effort, precision: str) -> Recipe:
    """The recipe of `benchmarks.fit_speed`, in which everything trains, at the sizes of an effort."""
    side = effort.side_px
    fields = effort.architecture.model_dump() | {"image_size": (side, side)}
    changes = {"precision": precision, "batch_size": effort.batch_size, "workers": effort.workers}
    changes |= {"epoch_pictures": effort.epoch_pictures, "model": ModelConfig.model_validate(fields)}
    return WHOLE.model_copy(update=changes)
