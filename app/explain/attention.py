"""Attention as a heatmap: where the Swin tokens look, and for the cross-attention, where that speaks for a class.

Attention is class-agnostic: it says what was looked at, not which class that spoke for. Its product with the score's
gradient is of a class.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float32

from app.errors import BadParameter

AttentionMethod = Literal["raw", "gradient"]
Layer = Literal["cross", "swin"]
LAYERS: tuple[Layer, ...] = get_args(Layer)
ATTENTION_METHODS: tuple[AttentionMethod, ...] = get_args(AttentionMethod)


def attention_map(
    attention: Float[np.ndarray, "heads q k"], grid: tuple[int, int], query: int | None, head: int | None
) -> Float32[np.ndarray, "h w"]:
    """The attention of one query token, or the mean over all; of one head, or the mean over all.

    `attention` holds rows that sum to 1, so the map does too, less what went to a window's padding. `grid` is that of
    the keys (rows, columns), whose cells are counted row by row, as query tokens are on the Swin map's grid. Raises
    BadParameter for a query or a head that is not there.
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
    """All maps at once: every head's and every query token's, with tokens on their grids (rows, columns)."""
    return np.asarray(attention.reshape(len(attention), *queries, *keys), dtype=np.float32)


def attention_times_gradient(
    attention: Float[np.ndarray, "heads q k"], gradient: Float[np.ndarray, "heads q k"]
) -> Float[np.ndarray, "heads q k"]:
    """The positive part of gradient × attention, in logits (Chefer et al. 2021, "Generic Attention-model
    Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers", equation 5, before its mean over heads).

    `gradient` is the derivative of the score at `attention`. `attention_map` makes a map of it as of attention itself.
    """
    return np.asarray(np.maximum(attention * gradient, 0))


def check_index(name: str, index: int | None, count: int) -> None:
    """Refuse the number of a head or a query that there is not. Raises BadParameter."""
    if index is not None and not 0 <= index < count:
        raise BadParameter(f"There is no {name} {index}: choose from 0 to {count - 1}, or none for the mean over all.")
