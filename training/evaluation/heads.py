"""The heads that are compared on a fixed trunk: those of the fusions, and cross-attention in the other directions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from app.models.cnnswin import CrossAttentionHead, Shape, head_of
from app.models.feature_maps import FeatureMaps
from app.shapes import Float
from training.evaluation.comparison import REFERENCE
from training.evaluation.variants import fitted_dim, parameter_count, refuse_gap
from training.recipe.config import STARTS, Recipe, RecipeError

CNN_QUERIES, BOTH_QUERY = "cnn_queries", "both_query"


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


def head_dims(variants: Sequence[str], recipe: Recipe, shapes: FeatureMaps[Shape], classes: int) -> dict[str, int]:
    """Return the dim with which the head of each variant is compared.

    A head of both branches has as many parameters as that of cross_attention. Raises RecipeError if the recipe's
    `model.heads` do not divide its `model.dim`, or if no dim comes near enough.
    """
    reference = parameter_count(new_head(REFERENCE, recipe, shapes, classes, recipe.model.dim))
    dims = {}
    for name in variants:
        dims[name] = recipe.model.dim
        if name not in (*STARTS, REFERENCE):
            head_at = partial(new_head, name, recipe, shapes, classes)
            dims[name] = fitted_dim(head_at, recipe.model, reference)
            refuse_gap(name, parameter_count(head_at(dims[name])), reference, recipe.model.heads)
    return dims


def new_head(name: str, recipe: Recipe, shapes: FeatureMaps[Shape], classes: int, dim: int) -> nn.Module:
    """Return a head with the first weights of the recipe's seed. Raises RecipeError."""
    if dim % recipe.model.heads:
        raise RecipeError(f"model.dim: {dim} is not a multiple of model.heads, {recipe.model.heads}: choose one")
    torch.manual_seed(recipe.seed)
    sizes = dim, recipe.model.heads, classes, recipe.model.dropout
    if name in DIRECTIONS:
        return DIRECTIONS[name](shapes, *sizes)
    cnn, transformer = shapes
    alone = {"cnn": cnn, "swin": transformer}.get(name)
    of_variant = shapes if alone is None else FeatureMaps[Shape]({alone: shapes[alone]})
    return head_of(name, of_variant, *sizes)  # type: ignore[arg-type]


def _swapped(maps: FeatureMaps[Any]) -> FeatureMaps[Any]:
    """The same values with the names of the branches exchanged."""
    first, second = maps
    return FeatureMaps({first: maps[second], second: maps[first]})
