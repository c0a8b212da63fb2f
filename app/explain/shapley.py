"""What each branch is worth: the Shapley value (1953) of a game whose players are the branches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, permutations

from app.explain.attribution import AttributionInput
from app.models.feature_maps import Branch, batched


@dataclass(frozen=True)
class BranchValues:
    """The score, that of the mean maps, and how their difference divides among the branches. In logits."""

    score: float
    baseline_score: float
    by_branch: Mapping[Branch, float]


def shapley_values(picture: AttributionInput) -> BranchValues:
    """Each branch's Shapley value, where an absent branch is its mean map; they add up to the score's difference.

    A branch's value is what it adds to the score, averaged over the orders in which the branches can come. Every set
    of some branches but not all is one item of one batch through the head: two for two branches.
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
