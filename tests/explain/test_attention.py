"""Attention maps against explicit loops, and the order of the cells."""

from __future__ import annotations

import numpy as np
import pytest

from app.errors import BadParameter
from app.explain.attention import attention_map, attention_times_gradient

HEADS, QUERIES, GRID = 3, 6, (2, 5)


@pytest.fixture
def attention() -> np.ndarray:
    weights = np.exp(np.random.default_rng(0).standard_normal((HEADS, QUERIES, GRID[0] * GRID[1])))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True), dtype=np.float32)


@pytest.mark.parametrize("query", [None, 0, 4, QUERIES - 1])
@pytest.mark.parametrize("head", [None, 0, HEADS - 1])
def test_the_map_is_the_mean_over_what_was_not_chosen(
    attention: np.ndarray, query: int | None, head: int | None
) -> None:
    heads = range(HEADS) if head is None else [head]
    queries = range(QUERIES) if query is None else [query]
    expected = np.zeros(GRID)
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            values = [attention[h, q, row * GRID[1] + column] for h in heads for q in queries]
            expected[row, column] = np.mean(values, dtype=np.float64)
    heatmap = attention_map(attention, GRID, query, head)
    np.testing.assert_allclose(heatmap, expected, rtol=1e-5)
    assert heatmap.dtype == np.float32
    assert heatmap.sum() == pytest.approx(1, abs=1e-5)


def test_a_token_that_looks_at_one_key_lights_one_cell_row_by_row() -> None:
    attention = np.zeros((1, 1, 10), dtype=np.float32)
    attention[0, 0, 7] = 1
    heatmap = attention_map(attention, GRID, None, None)
    assert np.argwhere(heatmap).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("query", "head", "says"),
    [
        (6, None, "no query 6: choose from 0 to 5"),
        (-1, None, "no query -1: choose from 0 to 5"),
        (None, 3, "no head 3: choose from 0 to 2"),
        (None, -1, "no head -1: choose from 0 to 2"),
    ],
)
def test_a_query_or_head_that_is_not_there_is_refused_with_what_there_is(
    attention: np.ndarray, query: int | None, head: int | None, says: str
) -> None:
    with pytest.raises(BadParameter, match=says):
        attention_map(attention, GRID, query, head)


def test_attention_times_gradient_is_the_positive_part_of_what_weights_add_to_the_score() -> None:
    attention = np.array([[[0.25, 0.75]], [[0.5, 0.5]]], dtype=np.float32)
    gradient = np.array([[[2.0, -1.0]], [[4.0, 0.0]]], dtype=np.float32)
    weights = attention_times_gradient(attention, gradient)
    np.testing.assert_array_equal(weights, [[[0.5, 0]], [[2, 0]]])
    np.testing.assert_array_equal(attention_map(weights, (1, 2), None, None), [[1.25, 0]])
