"""The cut of the model: the last feature map of each branch. No torch here: engines carry these in numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, Literal, TypeVar

import numpy as np
from jaxtyping import Float16, Float32

Array = TypeVar("Array")
Other = TypeVar("Other")
Branch = Literal["cnn", "swin"]
BRANCHES: tuple[Branch, ...] = ("cnn", "swin")


class FeatureMaps(dict[Branch, Array], Generic[Array]):
    """One value for each branch that a model has, by the branch's name, in the order of `BRANCHES`.

    The trunk's output is a feature map `[B, C, h, w]` for each branch; gradients, mean maps and map shapes have the
    same form. `maps.cnn` and `maps.swin` are None where the model lacks the branch.
    """

    @property
    def cnn(self) -> Array | None:
        """The CNN's value."""
        return self.get("cnn")

    @property
    def swin(self) -> Array | None:
        """The Swin's value."""
        return self.get("swin")

    def map(self, function: Callable[[Array], Other]) -> FeatureMaps[Other]:
        """The function's result for each branch."""
        return FeatureMaps({branch: function(value) for branch, value in self.items()})


def batched(maps: Sequence[Mapping[Branch, np.ndarray]]) -> FeatureMaps[np.ndarray]:
    """The maps of single pictures `[C, h, w]` as one batch `[B, C, h, w]`."""
    return FeatureMaps({branch: np.stack([of_one[branch] for of_one in maps]) for branch in maps[0]})


def unbatched(maps: Mapping[Branch, np.ndarray]) -> Iterator[FeatureMaps[np.ndarray]]:
    """The maps of each picture of a batch, in order."""
    for index in range(len(next(iter(maps.values())))):
        yield FeatureMaps({branch: of_batch[index] for branch, of_batch in maps.items()})


def to_float16(feature_map: Float32[np.ndarray, "..."]) -> Float16[np.ndarray, "..."]:
    """Rounded to float16, as numpy's own conversion rounds, but faster.

    numpy takes ten times as long where a number below float16's normal range loses bits. Such numbers are rounded to
    whole steps of 2^-24 first, which is the distance of two float32 numbers around 3/4.
    """
    shift = np.float32(0.75)
    small = np.abs(feature_map) < np.finfo(np.float16).smallest_normal
    return np.where(small, (feature_map + shift) - shift, feature_map).astype(np.float16)


def to_float32(feature_map: Float16[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """The same numbers in float32, as heads take them."""
    return np.asarray(feature_map, np.float32)
