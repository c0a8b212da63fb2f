"""The variants of an ablation: recipes and heads that differ in the fusion alone, with about as many parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from app.models.cnnswin import CNNViTFusion, Fusion, head_of
from training.evaluation.comparison import MAX_PARAMETER_GAP, REFERENCE
from training.loop.distil import check_distillation
from training.recipe.config import STARTS, BranchDropout, ModelConfig, Recipe, RecipeError, Start
from training.runs.run import build_model


def variant_recipes(
    recipe: Recipe, variants: Sequence[Fusion], classes: int
) -> tuple[dict[Fusion, Recipe], dict[Fusion, int]]:
    """Return the recipe of each variant, and the number of parameters of its model.

    The `dim` of `concat` and `late` is the multiple of `heads` that brings their parameter count nearest to that of
    cross_attention. A single branch keeps `dim`, and has neither initial weights for the other branch nor branch
    dropout. Raises RecipeError if a two-branch variant's parameter count differs from that of cross_attention by more
    than 5 %, or if a variant lacks the branch that a stage distils.
    """
    reference = build_model(_with_fusion(recipe, REFERENCE, recipe.model.dim), classes)
    whole, of_head = parameter_count(reference), parameter_count(reference.head)
    recipes, parameters, heads = {}, {}, recipe.model.heads
    for fusion in variants:
        dim = recipe.model.dim
        if fusion in ("concat", "late"):
            sizes: dict[str, Any] = {"heads": heads, "classes": classes, "dropout": 0.0}
            dim = fitted_dim(partial(head_of, fusion, reference.map_shapes, **sizes), recipe.model, of_head)
        recipes[fusion] = _with_fusion(recipe, fusion, dim)
        model = build_model(recipes[fusion], classes)
        _check_taught(recipes[fusion], model)
        parameters[fusion] = parameter_count(model)
        if fusion not in STARTS:
            refuse_gap(fusion, parameters[fusion], whole, heads)
    return recipes, parameters


def comparable_recipe(recipe: Recipe) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe by which variants are compared, and sentences on what differs in it.

    Every run has all of its epochs and keeps the weights of the last one, so that nothing is selected on val. Every
    head is new: a bundle to start from has a head of one fusion alone.
    """
    changes: dict[str, Any] = {"keep": "last", "early_stopping": 0}
    given = [f"{key}: {getattr(recipe, key)}" for key, value in changes.items() if getattr(recipe, key) != value]
    sentences: tuple[str, ...] = ()
    if given:
        have = "have" if len(given) > 1 else "has"
        sentences = (
            f"{' and '.join(given)} {have} no effect here: all epochs are trained and the weights of the last one are "
            "compared, so that nothing is selected on val",
        )
    if recipe.start.bundle is not None:
        changes["start"] = recipe.start.model_copy(update={"head": "new"})
    return recipe.model_copy(update=changes), sentences


def fitted_dim(head_at: Callable[[int], nn.Module], model: ModelConfig, wanted: int) -> int:
    """Return the `dim`, a multiple of the recipe's `heads`, whose head has a parameter count nearest to `wanted`."""
    with torch.device("meta"):
        counts = {dim: parameter_count(head_at(dim)) for dim in range(model.heads, 2 * model.dim + 1, model.heads)}
    return min(counts, key=lambda dim: abs(counts[dim] - wanted))


def refuse_gap(variant: str, count: int, wanted: int, heads: int) -> None:
    """Raises RecipeError if a variant's parameter count differs from that of cross_attention by more than 5 %."""
    if abs(count / wanted - 1) > MAX_PARAMETER_GAP:
        raise RecipeError(
            f"model.heads: with a dim that is a multiple of {heads}, {variant} has at best {count:,} parameters, which "
            f"differs from {REFERENCE}'s {wanted:,} by more than {MAX_PARAMETER_GAP:.0%}: choose fewer heads"
        )


def parameter_count(module: nn.Module) -> int:
    """Return the number of a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def _check_taught(recipe: Recipe, model: CNNViTFusion) -> None:
    try:
        check_distillation(recipe, model)
    except RecipeError as error:
        raise RecipeError(f"{error}; or leave {model.fusion} out of --variants") from error


def _with_fusion(recipe: Recipe, fusion: Fusion, dim: int) -> Recipe:
    of_one_branch = fusion in STARTS
    absent: dict[str, Start] = {branch: Start() for branch in STARTS if of_one_branch and fusion != branch}
    model = recipe.model.model_copy(update={"fusion": fusion, "dim": dim})
    changes = {"model": model, "start": recipe.start.model_copy(update=absent)}
    return recipe.model_copy(update=changes | ({"branch_dropout": BranchDropout()} if of_one_branch else {}))
