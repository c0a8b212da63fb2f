"""What each branch is worth: the Shapley value (1953) of a game whose players are the branches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, permutations

from app.explain.subject import Subject, stacked
from app.models.feature_maps import Branch


@dataclass(frozen=True)
class BranchValues:
    """The score, that of the mean maps, and how their difference divides among the branches. In logits."""

    score: float
    reference_score: float
    of_branch: Mapping[Branch, float]


def shapley_values(subject: Subject, known: Mapping[frozenset[Branch], float] | None = None) -> BranchValues:
    """Each branch's Shapley value, where an absent branch is its mean map; they add up to the score's difference.

    A branch's value is what it adds to the score, averaged over the orders in which the branches can come. Every set
    of branches whose score is not among the `known` is one item of one batch through the head.
    """
    branches = list(subject.maps)
    sets = [frozenset(some) for size in range(len(branches) + 1) for some in combinations(branches, size)]
    value_of = dict(known or {})
    if unknown := [some for some in sets if some not in value_of]:
        items = [{b: subject.maps[b] if b in some else subject.reference[b] for b in branches} for some in unknown]
        value_of |= zip(unknown, subject.score.values(stacked(items)).tolist(), strict=True)
    added: dict[Branch, list[float]] = {branch: [] for branch in branches}
    for order in permutations(branches):
        for position, branch in enumerate(order):
            before = frozenset(order[:position])
            added[branch].append(value_of[before | {branch}] - value_of[before])
    mean = {branch: sum(gains) / len(gains) for branch, gains in added.items()}
    return BranchValues(value_of[sets[-1]], value_of[sets[0]], mean)
