"""Shapley values (Shapley 1953) of the branches: the players of the game are the branches, its value is the score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np

from app.explain.attribution import AttributionInput, Maps
from app.models.feature_maps import Branch, batched
from app.shapes import Float


@dataclass(frozen=True)
class BranchValues:
    """The score, the score of the baseline, and each branch's part of their difference, all in logits."""

    score: float
    baseline_score: float
    by_branch: Mapping[Branch, float]


def shapley_values(picture: AttributionInput) -> BranchValues:
    """The Shapley value of each branch, where the baseline's map stands for an absent branch: see `branch_parts`."""
    endpoints = picture.endpoints()
    ends = np.array([endpoints.baseline, endpoints.picture])[:, None]
    parts = branch_parts(picture.maps, picture.baseline, ends, lambda batch: picture.score.values(batch)[:, None])
    return BranchValues(
        endpoints.picture, endpoints.baseline, {branch: float(part[0]) for branch, part in parts.items()}
    )


def branch_parts(
    maps: Maps,
    baseline: Maps,
    ends: Float[np.ndarray, "2 n"],
    values: Callable[[Maps], Float[np.ndarray, "coalitions n"]],
) -> dict[Branch, Float[np.ndarray, " n"]]:
    """The Shapley value of each branch in each of `n` scores, of which `ends` has the baseline's and the picture's.

    The value of a branch is what it adds to the score, averaged over all orders in which the branches can be added. The
    values add up to the difference between the picture's score and the baseline's. All coalitions, except the empty and
    the full one, go through the head as one batch: two items for two branches.
    """
    branches = list(maps)
    value_of = {frozenset[Branch](): ends[0], frozenset(branches): ends[1]}
    coalitions = [
        frozenset(coalition) for size in range(1, len(branches)) for coalition in combinations(branches, size)
    ]
    if coalitions:
        items = [{b: (maps if b in coalition else baseline)[b] for b in branches} for coalition in coalitions]
        value_of |= zip(coalitions, np.asarray(values(batched(items)), np.float64), strict=True)
    return {branch: _mean_addition(branch, branches, value_of) for branch in branches}


def _mean_addition(
    branch: Branch, branches: Sequence[Branch], value_of: Mapping[frozenset[Branch], Float[np.ndarray, " n"]]
) -> Float[np.ndarray, " n"]:
    before = [frozenset(order[: order.index(branch)]) for order in permutations(branches)]
    return np.asarray(np.mean([value_of[each | {branch}] - value_of[each] for each in before], axis=0))
