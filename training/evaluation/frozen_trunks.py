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

from app.models.cnnswin import BranchesHead, CNNViTFusion, CrossAttentionHead, Shape, head_of
from app.models.feature_maps import BRANCHES, FeatureMaps
from app.progress import tracked
from app.shapes import Float
from training.data.samples import Sample
from training.evaluation.comparison import REFERENCE, Variant
from training.evaluation.variants import fitted_dim, parameter_count, refuse_gap
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

CNN_QUERIES, BOTH_QUERY = "cnn_queries", "both_query"
Maps = FeatureMaps[np.ndarray]  # of all pictures: memory-mapped, float16, [n, C, h, w]


class CNNQueriesHead(nn.Module):
    """Cross-attention the other way round: the CNN's tokens query those of the transformer."""

    def __init__(self, shapes: FeatureMaps[Shape], dim: int, heads: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.swapped = CrossAttentionHead(_swapped(shapes), dim, heads, classes, dropout)

    def forward(self, maps: FeatureMaps[Tensor]) -> tuple[Float[Tensor, "b classes"], Tensor]:
        logits, attention = self.swapped(_swapped(maps))
        return logits, attention


class BothQueryHead(nn.Module):
    """Cross-attention in both directions: the mean of the logits of two heads."""

    def __init__(self, shapes: FeatureMaps[Shape], dim: int, heads: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.forth = CrossAttentionHead(shapes, dim, heads, classes, dropout)
        self.back = CNNQueriesHead(shapes, dim, heads, classes, dropout)

    def forward(self, maps: FeatureMaps[Tensor]) -> tuple[Float[Tensor, "b classes"], None]:
        return (self.forth(maps)[0] + self.back(maps)[0]) / 2, None


DIRECTIONS = {CNN_QUERIES: CNNQueriesHead, BOTH_QUERY: BothQueryHead}


@dataclass(frozen=True)
class Trunk:
    """A fixed trunk, and the maps that it makes of the pictures of train and val."""

    shapes: FeatureMaps[Shape]
    classes: tuple[str, ...]
    train: Sequence[Sample]
    train_maps: Maps
    val_maps: Maps
    digest: str


def read_trunk(
    trained: TrainedModel, samples: Sequence[Sample], classes: tuple[str, ...], recipe: Recipe, out: Path
) -> Trunk:
    """Compute the maps of all pictures of train and val, or take those that lie in `out` from an earlier call.

    Raises RecipeError if the model has one branch only, and RecipeError or WeightsError if it sees other pictures than
    the recipe says.
    """
    model = trained.model
    if len(model.map_shapes) < 2:
        raise RecipeError(f"--trunk: its model has the {next(iter(model.map_shapes))} alone: give one of two branches")
    if model.image_size != recipe.model.image_size:
        raise RecipeError(
            f"--trunk: its model sees {model.image_size} px, and the recipe has model.image_size "
            f"{recipe.model.image_size}: give the same"
        )
    check_stretch(trained, recipe.stretch, "--trunk")
    parts = {split: [sample for sample in samples if sample.split == split] for split in ("train", "val")}
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

    A head that was trained before, with the same recipe, trunk and pictures, is not trained again.
    """
    _batches(trunk, recipe)  # raises now, not after the first head
    reference = parameter_count(_new_head(REFERENCE, recipe, trunk, recipe.model.dim))
    known = [(sample.label, sample.group, sorted(sample.columns.items())) for sample in trunk.train]
    facts = hashlib.sha256(json.dumps([trunk.digest, trunk.classes, known]).encode()).hexdigest()
    dims = {name: _dim(name, recipe, trunk, reference) for name in variants}
    probabilities: dict[str, list[np.ndarray]] = {name: [] for name in variants}
    for seed in seeds:
        for name in variants:
            seeded = recipe.model_copy(update={"seed": seed})
            settings = json.dumps([facts, name, dims[name], seeded.model_dump(mode="json")])
            file = out / f"{name}-{seed}-{hashlib.sha256(settings.encode()).hexdigest()[:16]}.npy"
            if not file.is_file():
                logits = _trained(_new_head(name, seeded, trunk, dims[name]), trunk, seeded, f"{name}-{seed}")
                content = io.BytesIO()
                np.save(content, softmax(logits.astype(np.float64)))
                write_atomically(file, content.getbuffer())
            probabilities[name].append(np.load(file))
            report(f"{name}-{seed}: done")
    return tuple(
        Variant(name, dims[name], parameter_count(_new_head(name, recipe, trunk, dims[name])), np.stack(rows))
        for name, rows in probabilities.items()
    )


def _dim(name: str, recipe: Recipe, trunk: Trunk, reference: int) -> int:
    """The dim with which a head of both branches has as many parameters as cross_attention. Raises RecipeError."""
    if name in ("cnn", "swin", REFERENCE):
        return recipe.model.dim
    dim = fitted_dim(lambda dim: _new_head(name, recipe, trunk, dim), recipe.model, reference)
    refuse_gap(name, parameter_count(_new_head(name, recipe, trunk, dim)), reference, recipe.model.heads)
    return dim


def _new_head(name: str, recipe: Recipe, trunk: Trunk, dim: int) -> nn.Module:
    """A head with the first weights of the recipe's seed. Raises RecipeError."""
    if dim % recipe.model.heads:
        raise RecipeError(f"model.dim: {dim} is not a multiple of model.heads, {recipe.model.heads}: choose one")
    torch.manual_seed(recipe.seed)
    sizes = dim, recipe.model.heads, len(trunk.classes), recipe.model.dropout
    if name in DIRECTIONS:
        return DIRECTIONS[name](trunk.shapes, *sizes)
    cnn, transformer = trunk.shapes
    alone = {"cnn": cnn, "swin": transformer}.get(name)
    shapes = trunk.shapes if alone is None else FeatureMaps[Shape]({alone: trunk.shapes[alone]})
    return head_of(name, shapes, *sizes)  # type: ignore[arg-type]


def _batches(trunk: Trunk, recipe: Recipe) -> tuple[EpochBatches, list[int]]:
    """The batches of an epoch, and the labels of train. Raises RecipeError and DataError."""
    labels = [trunk.classes.index(sample.label) for sample in trunk.train]
    draws = draws_of(recipe, trunk.train, labels, trunk.classes)
    try:
        return EpochBatches(labels, draws, recipe.batch_size), labels
    except ValueError as error:
        raise RecipeError(str(error)) from error


def _trained(head: nn.Module, trunk: Trunk, recipe: Recipe, name: str) -> Float[np.ndarray, "n k"]:
    """Train a head by the recipe, and return the logits of its averaged weights for val."""
    batches, labels = _batches(trunk, recipe)
    loss = Loss.from_labels(labels, len(trunk.classes), recipe.imbalance, recipe.label_smoothing)
    adam, ema = build_optimizer(nn.ModuleDict({"head": head}), recipe), Ema(head, recipe.ema_decay)
    branches = [*(head.branches if isinstance(head, BranchesHead) else trunk.shapes)]
    updates = batches.updates * recipe.epochs
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


def _swapped(maps: FeatureMaps[Any]) -> FeatureMaps[Any]:
    """The same values with the names of the branches exchanged."""
    first, second = maps
    return FeatureMaps({first: maps[second], second: maps[first]})
