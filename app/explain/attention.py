"""Attention as a heatmap.

Attention weights are class-agnostic: they show where the tokens look, not what speaks for a class. Their product with
the gradient of the score is specific to a class.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from app.errors import BadParameter
from app.shapes import Float, Float32

AttentionMethod = Literal["raw", "gradient"]
Layer = Literal["cross", "swin", "vit"]
LAYERS: tuple[Layer, ...] = get_args(Layer)
ATTENTION_METHODS: tuple[AttentionMethod, ...] = get_args(AttentionMethod)


def attention_map(
    attention: Float[np.ndarray, "heads q k"], grid: tuple[int, int], query: int | None, head: int | None
) -> Float32[np.ndarray, "h w"]:
    """The attention of one query token and one head as a map on the grid of the keys.

    None for `query` or `head` takes the mean over all. `grid` is (rows, columns) of the keys. Cells and query tokens
    are numbered row by row. The rows of raw attention sum to 1, so the map does too, less the weights to what
    is no cell. Raises BadParameter for a query or a head that does not exist.
    """
    heads, queries, _ = attention.shape
    check_index("head", head, heads)
    check_index("query", query, queries)
    of_heads = attention if head is None else attention[head : head + 1]
    chosen = of_heads if query is None else of_heads[:, query : query + 1]
    return np.asarray(chosen.mean(axis=(0, 1), dtype=np.float64).reshape(grid), dtype=np.float32)


def on_grids(
    attention: Float[np.ndarray, "heads q k"], queries: tuple[int, int], keys: tuple[int, int]
) -> Float32[np.ndarray, "heads q_h q_w k_h k_w"]:
    """Reshape attention so that queries and keys are on their grids (rows, columns)."""
    return np.asarray(attention.reshape(len(attention), *queries, *keys), dtype=np.float32)


def attention_times_gradient(
    attention: Float[np.ndarray, "heads q k"], gradient: Float[np.ndarray, "heads q k"]
) -> Float[np.ndarray, "heads q k"]:
    """The positive part of attention × gradient, in logits.

    `gradient` is the derivative of the score with respect to `attention`. `attention_map` turns the result into a map,
    as it does with attention itself. Source: Chefer et al. 2021, "Generic Attention-model Explainability for
    Interpreting Bi-Modal and Encoder-Decoder Transformers", equation 5, before its mean over heads.
    """
    return np.asarray(np.maximum(attention * gradient, 0))


def check_index(name: str, index: int | None, count: int) -> None:
    """Raises BadParameter if a head or a query has no such index. None stands for the mean over all."""
    if index is not None and not 0 <= index < count:
        raise BadParameter(f"There is no {name} {index}: choose from 0 to {count - 1}, or none for the mean over all.")
