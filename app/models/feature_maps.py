"""The cut of the model: the last feature map of each branch. No torch here: engines carry these in numpy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, cast

Array = TypeVar("Array")
Branch = Literal["cnn", "swin"]
BRANCHES: tuple[Branch, ...] = ("cnn", "swin")


@dataclass(frozen=True)
class FeatureMaps(Generic[Array]):
    """The trunk's output: one map `[B, C, h, w]` for each branch that the model has, else None."""

    cnn: Array | None = None
    swin: Array | None = None

    def items(self) -> Iterator[tuple[Branch, Array]]:
        """The branches that are there, CNN first."""
        for branch in BRANCHES:
            if (feature_map := getattr(self, branch)) is not None:
                yield branch, cast(Array, feature_map)
