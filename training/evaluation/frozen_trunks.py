"""Ablation of the head alone: the trunk of a trained model is fixed, and every head learns from the same maps.

The maps are computed once, from the pictures as the service prepares them, so that a head is trained in less than a
minute and many seeds can be compared. What a trunk learned with one head may favour that head.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.models.cnnswin import BranchesHead, CNNViTFusion, Shape
from app.models.feature_maps import BRANCHES, FeatureMaps
from app.progress import tracked
from app.shapes import Float
from training.data.samples import Sample, refuse_unreadable
from training.evaluation.comparison import Variant
from training.evaluation.heads import head_dims, new_head
from training.evaluation.variants import parameter_count
from training.loading.draws import draws_of
from training.loading.forward import prepared_batches, to_model_input
from training.loading.views import EpochBatches
from training.loop.branch_dropout import drop_branches
from training.loop.ema import Ema
from training.loop.fit import TrainingError
from training.loop.loss import Loss
from training.loop.optim import build_optimizer, set_rates
from training.loop.trained import TrainedModel, check_stretch
from training.metrics.calibration import softmax
from training.output import write_atomically
from training.recipe.config import Recipe, RecipeError
from training.runs.contents import content_marks

# What a head on a fixed trunk does not depend on: a change of these keys leaves the heads that are trained already.
WITHOUT_EFFECT = frozenset(
    {
        *("name", "start", "augmentation", "accumulate", "batch_norm", "precision", "keep", "early_stopping"),
        *("workers", "log_updates", "checkpoint_updates", "keep_checkpoints"),
    }
)
Maps = FeatureMaps[np.ndarray]  # of all pictures: memory-mapped, float16, [n, C, h, w]


@dataclass(frozen=True)
class Trunk:
    """A fixed trunk, and the maps that it makes of the pictures of train and val."""

    shapes: FeatureMaps[Shape]
    classes: tuple[str, ...]
    train: Sequence[Sample]
    train_maps: Maps
    val_maps: Maps
    digest: str


def check_heads(
    trained: TrainedModel, samples: Sequence[Sample], classes: tuple[str, ...], recipe: Recipe, variants: Sequence[str]
) -> None:
    """Check, before any map is computed, that the heads of these variants can be trained on a model's maps.

    Raises RecipeError if the model has one branch only, or if the recipe does not fit its maps or the pictures of
    train, RecipeError or WeightsError if the model sees other pictures than the recipe says, and DataError for a file
    that is no picture.
    """
    shapes = trained.model.map_shapes
    if len(shapes) < 2:
        raise RecipeError(f"--trunk: its model has the {next(iter(shapes))} alone: give one of two branches")
    if trained.model.image_size != recipe.model.image_size:
        raise RecipeError(
            f"--trunk: its model sees {trained.model.image_size} px, and the recipe has model.image_size "
            f"{recipe.model.image_size}: give the same"
        )
    check_stretch(trained, recipe.stretch, "--trunk")
    head_dims(variants, recipe, shapes, len(classes))
    parts = _parts(samples)
    _batches(parts["train"], classes, recipe)
    refuse_unreadable([*parts["train"], *parts["val"]])


def read_trunk(
    trained: TrainedModel, samples: Sequence[Sample], classes: tuple[str, ...], recipe: Recipe, out: Path
) -> Trunk:
    """Compute the maps of all pictures of train and val, or take those that lie in `out` from an earlier call.

    `check_heads` says before whether they can be used.
    """
    model, parts = trained.model, _parts(samples)
    used = [*parts["train"], *parts["val"]]
    marks = content_marks([sample.path for sample in used])
    digest = hashlib.sha256(f"{trained.sha256} {recipe.stretch}".encode())
    for sample in used:
        digest.update(f"{sample.path} {sample.split} {marks[sample.path]}\n".encode())
    maps = {
        split: _maps(model, part, recipe, out / f"maps-{split}-{digest.hexdigest()[:16]}")
        for split, part in parts.items()
    }
    return Trunk(model.map_shapes, classes, parts["train"], maps["train"], maps["val"], digest.hexdigest())


def _parts(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    return {split: [sample for sample in samples if sample.split == split] for split in ("train", "val")}


@torch.inference_mode()
def _maps(model: CNNViTFusion, samples: Sequence[Sample], recipe: Recipe, folder: Path) -> Maps:
    """The maps of pictures, from a folder that is complete if it is there."""
    files = {branch: f"{branch}.npy" for branch in BRANCHES if branch in model.map_shapes}
    if not folder.is_dir():
        unfinished = folder.with_name(f"{folder.name}.part")
        unfinished.mkdir(parents=True, exist_ok=True)
        arrays = {
            branch: np.lib.format.open_memmap(
                unfinished / file, "w+", np.float16, (len(samples), *model.map_shapes[branch])
            )
            for branch, file in files.items()
        }
        first, device = 0, next(model.parameters()).device
        for batch in prepared_batches(samples, recipe.model.image_size, recipe.stretch):
            for branch, feature_map in model.encode(to_model_input(batch.to(device))).items():
                arrays[branch][first : first + len(batch)] = feature_map.half().cpu().numpy()
            first += len(batch)
        for array in arrays.values():
            array.flush()
        unfinished.rename(folder)
    return FeatureMaps({branch: np.load(folder / file, mmap_mode="r") for branch, file in files.items()})


def train_heads(
    trunk: Trunk,
    recipe: Recipe,
    variants: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    report: Callable[[str], None],
) -> tuple[Variant, ...]:
    """Train the head of every variant with every seed, and return the probabilities for the pictures of val.

    A head that was trained before, with the same trunk, pictures and keys of the recipe that matter to it, is not
    trained again. Raises RecipeError and DataError for what `check_heads` would have said, and TrainingError.
    """
    classes = len(trunk.classes)
    dims = head_dims(variants, recipe, trunk.shapes, classes)
    known = [(sample.label, sample.group, sorted(sample.columns.items())) for sample in trunk.train]
    facts = hashlib.sha256(json.dumps([trunk.digest, trunk.classes, known]).encode()).hexdigest()
    probabilities: dict[str, list[np.ndarray]] = {name: [] for name in variants}
    for seed in seeds:
        for name in variants:
            seeded = recipe.model_copy(update={"seed": seed})
            settings = json.dumps([facts, name, dims[name], _effective(seeded)])
            file = out / f"{name}-{seed}-{hashlib.sha256(settings.encode()).hexdigest()[:16]}.npy"
            if not file.is_file():
                head = new_head(name, seeded, trunk.shapes, classes, dims[name])
                logits = _trained(head, trunk, seeded, f"{name}-{seed}")
                content = io.BytesIO()
                np.save(content, softmax(logits.astype(np.float64)))
                write_atomically(file, content.getbuffer())
            probabilities[name].append(np.load(file))
            report(f"{name}-{seed}: done")
    counts = {name: parameter_count(new_head(name, recipe, trunk.shapes, classes, dims[name])) for name in variants}
    return tuple(Variant(name, dims[name], counts[name], np.stack(rows)) for name, rows in probabilities.items())


def head_epochs(recipe: Recipe) -> int:
    """The number of epochs of the stages in which the head trains. A recipe has one at least."""
    return sum(stage.epochs for stage in recipe.stages if stage.head == "all")


def _effective(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe a head on a fixed trunk depends on: of its stages, the number of epochs alone."""
    return recipe.model_dump(mode="json", exclude={*WITHOUT_EFFECT, "stages"}) | {"epochs": head_epochs(recipe)}


def _batches(train: Sequence[Sample], classes: tuple[str, ...], recipe: Recipe) -> tuple[EpochBatches, list[int]]:
    """The batches of an epoch, and the labels of train. Raises RecipeError and DataError."""
    labels = [classes.index(sample.label) for sample in train]
    draws = draws_of(recipe, train, labels, classes)
    try:
        return EpochBatches(labels, draws, recipe.batch_size), labels
    except ValueError as error:
        raise RecipeError(str(error)) from error


def _trained(head: nn.Module, trunk: Trunk, recipe: Recipe, name: str) -> Float[np.ndarray, "n k"]:
    """Train a head by the recipe, and return the logits of its averaged weights for val."""
    batches, labels = _batches(trunk.train, trunk.classes, recipe)
    loss = Loss.from_labels(labels, len(trunk.classes), recipe.imbalance, recipe.label_smoothing)
    adam, ema = build_optimizer(nn.ModuleDict({"head": head}), recipe), Ema(head, recipe.ema_decay)
    branches = [*(head.branches if isinstance(head, BranchesHead) else trunk.shapes)]
    updates = batches.updates * head_epochs(recipe)
    head.train()
    for update in tracked(range(updates), name, "updates", updates):
        epoch, number = divmod(update, batches.updates)
        if number == 0:
            batches.start(epoch, 0)
        chosen = [index for _, _, index in batches.keys(number, 0)]
        maps = _chosen(trunk.train_maps, branches, chosen)
        maps = drop_branches(maps, recipe.branch_dropout, seed=recipe.seed, update=update)
        targets = functional.one_hot(torch.tensor([labels[index] for index in chosen]), len(trunk.classes)).float()
        set_rates(adam, recipe, update, updates)
        adam.zero_grad(set_to_none=True)
        (loss(head(maps)[0], targets) / loss.normaliser([labels[index] for index in chosen])).backward()
        nn.utils.clip_grad_norm_(head.parameters(), recipe.clip_norm)
        adam.step()
        ema.update(head, update)
    with torch.inference_mode():
        count = len(next(iter(trunk.val_maps.values())))
        parts = [range(first, min(first + 64, count)) for first in range(0, count, 64)]
        logits = [ema.model(_chosen(trunk.val_maps, branches, part))[0] for part in parts]
    found = torch.cat(logits).numpy()
    if not np.isfinite(found).all():
        raise TrainingError(f"{name}: its answers are not finite, so that it has diverged: use lower rates.head")
    return found


def _chosen(maps: Maps, branches: Sequence[str], places: Sequence[int]) -> FeatureMaps[Tensor]:
    return FeatureMaps(
        {branch: torch.from_numpy(maps[branch][list(places)]).float() for branch in maps if branch in branches}
    )
