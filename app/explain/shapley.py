"""Shapley values (Shapley 1953) of the branches: the players of the game are the branches, its value is the score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, permutations

from app.explain.attribution import AttributionInput
from app.models.feature_maps import Branch, batched


@dataclass(frozen=True)
class BranchValues:
    """The score, the score of the baseline, and each branch's part of their difference, all in logits."""

    score: float
    baseline_score: float
    by_branch: Mapping[Branch, float]


def shapley_values(picture: AttributionInput) -> BranchValues:
    """The Shapley value of each branch, where the baseline's map stands for an absent branch.

    The value of a branch is what it adds to the score, averaged over all orders in which the branches can be added. The
    values add up to the difference between the picture's score and the baseline's. All coalitions, except the empty and
    the full one, go through the head as one batch: two items for two branches.
    """
    branches, endpoints = list(picture.maps), picture.endpoints()
    value_of = {frozenset[Branch](): endpoints.baseline, frozenset(branches): endpoints.picture}
    coalitions = [
        frozenset(coalition) for size in range(1, len(branches)) for coalition in combinations(branches, size)
    ]
    if coalitions:
        items = [
            {b: picture.maps[b] if b in coalition else picture.baseline[b] for b in branches}
            for coalition in coalitions
        ]
        value_of |= zip(coalitions, picture.score.values(batched(items)).tolist(), strict=True)
    contributions: dict[Branch, list[float]] = {branch: [] for branch in branches}
    for order in permutations(branches):
        for position, branch in enumerate(order):
            before = frozenset(order[:position])
            contributions[branch].append(value_of[before | {branch}] - value_of[before])
    return BranchValues(
        endpoints.picture,
        endpoints.baseline,
        {b: sum(of_branch) / len(of_branch) for b, of_branch in contributions.items()},
    )
