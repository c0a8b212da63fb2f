"""The metrics of an evaluation for parts of its pictures: those of one value in a further column of the table.

A mean over all pictures can hide a site, a device or an age at which a model is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from app.progress import tracked
from training.data.samples import Sample
from training.evaluation.metric_values import MetricValues, Pictures, chosen_values
from training.metrics.classification import DecisionRule
from training.spelling import NO_VALUE

MOST_VALUES, MOST_NUMBERS = 20, 10
_ABSENT = {"", "na", "n/a", "nan", "inf", "-inf", "null", "none", "unknown", "?", "-"}  # as programs write no number
METRICS = ("auroc", "sensitivity", "specificity", "accuracy", "ece")  # of these, what the classes define
_BANDS = 4


@dataclass(frozen=True)
class Subgroup:
    """The pictures of one value: their number by class, and their metrics."""

    pictures_by_class: dict[str, int]
    metrics: MetricValues

    @property
    def pictures(self) -> int:
        """The number of pictures."""
        return sum(self.pictures_by_class.values())


Subgroups = Mapping[str, Mapping[str, Subgroup]]


def subgroups(
    samples: Sequence[Sample],
    pictures: Pictures,
    rule: DecisionRule,
    repeats: int,
    seed: int,
    sources: Collection[str] = (),
) -> dict[str, dict[str, Subgroup]]:
    """Return the subgroups by column and value. `pictures` are those of `samples`, in the same order.

    A column counts if it has 2 to 20 values. One of more than 10 numbers is cut into four bands at its quartiles;
    among them, cells such as `NA` or `unknown` have no value. In the columns `sources`, every value is a subgroup.
    """
    columns = {
        column: values
        for column, values in _columns(samples, sources).items()
        if len({*values}) > 1 and (column in sources or len({*values} - {NO_VALUE}) <= MOST_VALUES)
    }
    found: dict[str, dict[str, Subgroup]] = {column: {} for column in columns}
    parts = [(column, value) for column, values in columns.items() for value in sorted({*values}, key=_place)]
    for column, value in tracked(parts, "subgroups", "subgroups", len(parts)):
        chosen = np.array([each == value for each in columns[column]])
        groups = tuple(group for group, one in zip(pictures.groups, chosen, strict=True) if one)
        part = Pictures(pictures.classes, pictures.probabilities[chosen], pictures.labels[chosen], groups)
        by_class = {name: int((part.labels == index).sum()) for index, name in enumerate(part.classes)}
        found[column][value] = Subgroup(by_class, chosen_values(part, rule, METRICS, repeats, seed))
    return found


def columns_of_too_many_values(samples: Sequence[Sample], sources: Collection[str] = ()) -> list[str]:
    """Return the columns but for `sources` that make no subgroups because they have more than 20 values."""
    columns = _columns(samples, sources).items()
    return [name for name, values in columns if name not in sources and len({*values} - {NO_VALUE}) > MOST_VALUES]


def _columns(samples: Sequence[Sample], sources: Collection[str]) -> dict[str, list[str]]:
    names = sorted({name for sample in samples for name in sample.columns})
    cells = {name: [sample.columns.get(name, "") for sample in samples] for name in names}
    return {
        name: [cell or NO_VALUE for cell in column] if name in sources else _values(column)
        for name, column in cells.items()
    }


def _values(cells: Sequence[str]) -> list[str]:
    """The cells, or of numbers that differ too much, the bands in which they lie."""
    numbers = {cell: _number(cell) for cell in cells if cell.strip().lower() not in _ABSENT}
    distinct = sorted({number for number in numbers.values() if number is not None})
    if len(distinct) <= MOST_NUMBERS or None in numbers.values():
        return [cell or NO_VALUE for cell in cells]
    known = [number for cell in cells if (number := numbers.get(cell)) is not None]
    edges = sorted({*np.quantile(known, np.linspace(0, 1, _BANDS + 1)).tolist()})
    if len(edges) == 2:  # three quarters and more have the lowest or the highest number
        edges = [edges[0], edges[0] if known.count(edges[0]) > len(known) / 2 else distinct[-2], edges[1]]
    names = [f"{low:.12g} to {high:.12g}" for low, high in pairwise(edges)]
    return [
        NO_VALUE if (number := numbers.get(cell)) is None else names[int(np.searchsorted(edges[1:-1], number, "left"))]
        for cell in cells
    ]


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _place(value: str) -> tuple[bool, float, str]:
    """Numbers and bands in their order, then texts, then what has no value."""
    number = _number(value.partition(" to ")[0])
    return value == NO_VALUE, math.inf if number is None else number, value
