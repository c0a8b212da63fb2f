"""Which training picture an epoch shows at which place.

The answer depends on the seed, the epoch and the place alone, so that a run that is resumed, or spread over more
processes, sees the same pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np

from app.shapes import Float, Int
from training.data.samples import DataError, Sample
from training.recipe.config import Balance, Recipe, RecipeError

_ORDER = int.from_bytes(b"order")
_ROUNDING = 1e-6  # of shares that are written as decimal fractions


@dataclass(frozen=True, eq=False)
class Draws:
    """The order of the pictures in every epoch.

    `kinds` are equal for pictures that may replace each other: those of one label and, if the draws are balanced within
    a column, of one value of it. `probabilities` are those of drawing each picture at any place, with replacement; if
    they are None, the epochs are cut from one permutation of all pictures after another. `epoch_pictures` is the number
    of places of an epoch. The last `unlabelled` pictures have no labels, and are drawn in `unlabelled_epochs` alone,
    together with all others.
    """

    kinds: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, " n"] | None
    epoch_pictures: int
    seed: int
    unlabelled: int = 0
    unlabelled_epochs: Set[int] = frozenset()

    def order(self, epoch: int) -> Int[np.ndarray, " places"]:
        """Return the indices of the pictures of an epoch, counted from 0, in order."""
        everything = epoch in self.unlabelled_epochs
        count = len(self.kinds) - (0 if everything else self.unlabelled)
        if self.probabilities is not None and not everything:
            return self._rng(epoch).choice(count, self.epoch_pictures, p=self.probabilities)
        first = epoch * self.epoch_pictures
        passes = range(first // count, -(-(first + self.epoch_pictures) // count))
        pictures = np.concatenate([self._rng(number).permutation(count) for number in passes])
        return pictures[first - passes.start * count :][: self.epoch_pictures]

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng([_ORDER, self.seed, number])


def draws_of(
    recipe: Recipe, samples: Sequence[Sample], labels: Sequence[int], classes: Sequence[str], unlabelled: int = 0
) -> Draws:
    """Return the recipe's draws of these training pictures, whose `labels` are indices of `classes`.

    Behind them there are so many `unlabelled` ones, for the stages that distil from them. Raises RecipeError and
    DataError if the recipe balances what these pictures cannot balance.
    """
    truth = np.array(labels)
    values = np.zeros(len(samples), np.int64)
    names = [""]
    if recipe.balance is not None and recipe.balance.column is not None:
        names, values = column_values(samples, recipe.balance.column)
    weights = np.ones(len(samples))
    if recipe.count_by == "group":
        pictures = Counter(sample.group for sample in samples)
        if not pictures.keys() - {None}:
            raise DataError(
                "count_by: group, but no picture of train has a group: name the groups in a column group, or leave "
                "count_by out"
            )
        weights = np.array([1.0 if sample.group is None else 1 / pictures[sample.group] for sample in samples])
    kinds = values * len(classes) + truth
    epoch_pictures = recipe.epoch_pictures or len(samples)
    drawn = True
    if recipe.balance is not None:
        shares = _label_shares(recipe.balance, truth, weights, classes)
        weights = _balanced(weights, kinds, shares, names, classes)
    elif recipe.imbalance == "balanced_sampling":
        weights = weights / (np.bincount(truth, weights)[truth] * len(set(labels)))
    else:
        drawn = recipe.count_by == "group"
    probabilities = weights / weights.sum() if drawn else None
    kinds = np.concatenate([kinds, np.full(unlabelled, -1)])
    unlabelled_epochs = _unlabelled_epochs(recipe) if unlabelled else frozenset[int]()
    return Draws(kinds, probabilities, epoch_pictures, recipe.seed, unlabelled, unlabelled_epochs)


def shares_of(draws: Draws, labels: Sequence[int], classes: Sequence[str]) -> dict[str, float]:
    """Return the share of each class among the draws with replacement, or nothing if each picture comes once."""
    if draws.probabilities is None:
        return {}
    return dict(zip(classes, np.bincount(labels, draws.probabilities, len(classes)).tolist(), strict=True))


def _unlabelled_epochs(recipe: Recipe) -> frozenset[int]:
    stages = [(epoch, recipe.stage_at(epoch)) for epoch in range(recipe.epochs)]
    return frozenset(epoch for epoch, stage in stages if stage.distil is not None and stage.distil.unlabelled)


def column_values(samples: Sequence[Sample], column: str) -> tuple[list[str], Int[np.ndarray, " n"]]:
    """Return the sorted values of a column (see `Sample.columns`), and the index of each sample's value among them.

    Raises DataError if a sample has no value there.
    """
    if without := [sample for sample in samples if column not in sample.columns]:
        present = sorted({name for sample in samples for name in sample.columns})
        raise DataError(
            f"balance.within: {len(without)} of {len(samples)} pictures have no value in a column {column}, the first "
            f"is {without[0].path}: fill it in, or name another (the table has {', '.join(present) or 'no others'}; "
            "columns of one name are not read)"
        )
    names = sorted({sample.columns[column] for sample in samples})
    index = {name: number for number, name in enumerate(names)}
    return names, np.array([index[sample.columns[column]] for sample in samples])


def _label_shares(
    balance: Balance, labels: Int[np.ndarray, " n"], weights: Float[np.ndarray, " n"], classes: Sequence[str]
) -> Float[np.ndarray, " k"]:
    """The share of each class among the draws. Classes without a name keep their proportions. Raises RecipeError."""
    shares = np.bincount(labels, weights, len(classes))
    named = balance.label
    if not isinstance(named, dict):
        if len(classes) != 2:
            raise RecipeError(
                f"balance.label: there are {len(classes)} classes, {', '.join(classes)}: give the share of each one by "
                f"its name, such as {{{classes[0]}: 0.5}}"
            )
        if np.isclose(*shares) and named != 0.5:
            raise RecipeError(
                f"balance.label: none of {' and '.join(classes)} is the rarer one: give the share of one by its name, "
                f"such as {{{classes[0]}: {named:g}}}"
            )
        named = {classes[int(shares.argmin())]: named}
    if unknown := sorted(named.keys() - {*classes}):
        raise RecipeError(f"balance.label: {', '.join(unknown)} is no class: the classes are {', '.join(classes)}")
    others = [index for index, name in enumerate(classes) if name not in named]
    rest = 1 - sum(named.values())
    if (others and rest <= _ROUNDING) or (not others and abs(rest) > _ROUNDING):
        left = f", and {', '.join(classes[index] for index in others)} must have some of it" if others else ""
        raise RecipeError(f"balance.label: the shares add up to {1 - rest:g}: all classes together have 1{left}")
    shares[others] *= rest / shares[others].sum() if others else 1
    for name, share in named.items():
        shares[classes.index(name)] = share
    return np.asarray(shares)


def _balanced(
    weights: Float[np.ndarray, " n"],
    kinds: Int[np.ndarray, " n"],
    shares: Float[np.ndarray, " k"],
    names: Sequence[str],
    classes: Sequence[str],
) -> Float[np.ndarray, " n"]:
    """Weights by which each value of the column keeps its share of the draws, with the labels' shares within it.

    `kinds` are the value's index × classes + the label. Raises DataError for a value without pictures of some class.
    """
    totals = np.bincount(kinds, weights, len(names) * len(classes)).reshape(len(names), len(classes))
    for value, label in np.argwhere(totals == 0):
        raise DataError(
            f"balance: the pictures of {names[value] or 'train'} have none of {classes[label]}, so that they tell the "
            "label: give them the value of other pictures, or leave them out"
        )
    wanted = totals.sum(axis=1, keepdims=True) * shares / totals
    return np.asarray(weights * wanted.ravel()[kinds])
