"""Draws of pictures that have labels and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.data.samples import Sample
from training.loading.draws import Draws, draws_of
from training.recipe.config import Recipe


def draws(labels: Sequence[int], seed: int, balanced: bool = False) -> Draws:
    """The draws of a recipe with this seed, with `balanced_sampling` or without."""
    classes = [str(label) for label in range(max(labels) + 1)]
    samples = [
        Sample(Path(f"{number}.png"), classes[label], None, "train", None) for number, label in enumerate(labels)
    ]
    recipe = Recipe.model_validate(
        {"name": "drawn", "seed": seed, "imbalance": "balanced_sampling" if balanced else "none"}
    )
    return draws_of(recipe, samples, labels, classes)
