"""The feature maps at the model's cut: one for each branch. This module does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, Literal, TypeVar

import numpy as np

from app.shapes import Float16, Float32

Array = TypeVar("Array")
Other = TypeVar("Other")
Branch = Literal["cnn", "swin", "vit"]
TRANSFORMERS: tuple[Branch, ...] = ("swin", "vit")  # a model has one of them at most
BRANCHES: tuple[Branch, ...] = ("cnn", *TRANSFORMERS)


def transformer_of(branches: Iterable[Branch]) -> Branch | None:
    """The transformer among the branches of a model, if there is one."""
    return next((branch for branch in branches if branch in TRANSFORMERS), None)


def weights_of(branch: Branch) -> Literal["cnn", "swin"]:
    """The name of a branch's weights, which is `swin` for every transformer."""
    return "cnn" if branch == "cnn" else "swin"


class FeatureMaps(dict[Branch, Array], Generic[Array]):
    """A value for each branch of a model, keyed by the branch's name, in the order of `BRANCHES`.

    The output of the trunk is a feature map `[B, C, h, w]` for each branch. Gradients, mean maps and map shapes have
    the same form. `maps.cnn` and `maps.transformer` are None if the model lacks the branch.
    """

    @property
    def cnn(self) -> Array | None:
        """The value of the CNN branch, if there is one."""
        return self.get("cnn")

    @property
    def transformer(self) -> Array | None:
        """The value of the transformer, whichever name it has, if there is one."""
        name = transformer_of(self)
        return None if name is None else self[name]

    def map(self, function: Callable[[Array], Other]) -> FeatureMaps[Other]:
        """Apply a function to the value of each branch."""
        return FeatureMaps({branch: function(value) for branch, value in self.items()})


def batched(maps: Sequence[Mapping[Branch, np.ndarray]]) -> FeatureMaps[np.ndarray]:
    """Stack the maps of single pictures `[C, h, w]` to one batch `[B, C, h, w]`."""
    return FeatureMaps({branch: np.stack([of_picture[branch] for of_picture in maps]) for branch in maps[0]})


def unbatched(maps: Mapping[Branch, np.ndarray]) -> Iterator[FeatureMaps[np.ndarray]]:
    """Split a batch `[B, C, h, w]` into the maps of its pictures `[C, h, w]`, in order."""
    for index in range(len(next(iter(maps.values())))):
        yield FeatureMaps({branch: of_batch[index] for branch, of_batch in maps.items()})


def to_float16(feature_map: Float32[np.ndarray, "..."]) -> Float16[np.ndarray, "..."]:
    """Round to float16, with the same result as numpy's own conversion, but faster.

    numpy's conversion is ten times slower for numbers below the normal range of float16, where bits are lost. Here such
    numbers are first rounded to multiples of 2^-24, the spacing of float32 numbers around 3/4, by adding 3/4.
    """
    shift = np.float32(0.75)
    small = np.abs(feature_map) < np.finfo(np.float16).smallest_normal
    return np.where(small, (feature_map + shift) - shift, feature_map).astype(np.float16)


def to_float32(feature_map: Float16[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Convert to float32, the type that heads take."""
    return np.asarray(feature_map, np.float32)
