"""The cut of the model: the last feature map of each branch. No torch here: engines carry these in numpy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, cast

import numpy as np
from jaxtyping import Float16, Float32

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


def to_half(feature_map: Float32[np.ndarray, "..."]) -> Float16[np.ndarray, "..."]:
    """Rounded to float16. numpy takes ten times as long where that loses bits of numbers below its normal range.

    So those are rounded before, to whole steps of 2^-24: the distance of two float32 numbers around 3/4.
    """
    shift = np.float32(0.75)
    small = np.abs(feature_map) < np.finfo(np.float16).smallest_normal
    return np.where(small, (feature_map + shift) - shift, feature_map).astype(np.float16)


def widened(maps: FeatureMaps[Float16[np.ndarray, "..."]]) -> FeatureMaps[Float32[np.ndarray, "..."]]:
    """The same numbers in float32, as heads take them."""
    return FeatureMaps(**{branch: feature_map.astype(np.float32) for branch, feature_map in maps.items()})
