"""The protocol of an engine, which runs the two parts of a bundle's model.

The trunk is both backbones, without gradients. The head computes logits, attention, and the gradients of a score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from app.models.feature_maps import FeatureMaps
from app.shapes import Float, Float32, UInt8

EngineKind = Literal["auto", "openvino", "torch"]
DeviceKind = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class HeadResult:
    """The output of the head for a batch of feature maps and targets.

    The score of a picture is `sum(logits * target)`. `gradients` are its derivatives with respect to each branch's map
    `[B, C, h, w]`, `attention_gradient` the one with respect to the attention. `attention` and `attention_gradient` are
    None in a model without cross-attention.
    """

    logits: Float32[np.ndarray, "b classes"]
    gradients: FeatureMaps[np.ndarray]
    attention: Float32[np.ndarray, "b heads queries keys"] | None = None
    attention_gradient: Float32[np.ndarray, "b heads queries keys"] | None = None


@dataclass(frozen=True)
class TokenResult:
    """The saliency and the attention of the transformer's tokens for one picture.

    `saliency` maps the grid height of each stage to |gradient × token| on that grid. `attention` has the weights of the
    last block, between the cells of the feature map; None if the engine does not have it.
    """

    saliency: Mapping[int, Float32[np.ndarray, "_h _w"]]
    attention: Float32[np.ndarray, "heads cells cells"] | None


@runtime_checkable
class Engine(Protocol):
    """Runs one bundle. Inputs and outputs are numpy arrays. Engines are thread-safe and keep no state between calls.

    `concurrency` is the number of simultaneous calls, and `batch_size` the number of pictures in one call, with which
    the engine uses the machine best. `token_stages` are the grid heights of the transformer's stages, the finest
    first; the tuple is empty if the engine cannot compute `tokens`. `has_token_attention` says whether these include
    the attention. `is_lifted` says whether it has the head's lifted form
    (`app.models.lifting`), which `path_evidence` and `ablated_logits` need.
    """

    name: str
    version: str
    concurrency: int
    batch_size: int
    token_stages: tuple[int, ...]
    has_token_attention: bool
    is_lifted: bool

    def encode(self, images: UInt8[np.ndarray, "b h w 3"]) -> FeatureMaps[np.ndarray]:
        """From prepared pictures to feature maps, float32 `[B, C, h, w]`."""
        ...

    def classify(self, maps: FeatureMaps[np.ndarray]) -> Float32[np.ndarray, "b k"]:
        """From feature maps to logits, without gradients."""
        ...

    def explain(self, maps: FeatureMaps[np.ndarray], target: Float[np.ndarray, "b k"]) -> HeadResult:
        """From feature maps to logits, attention, and the gradients of the score `sum(logits * target)`."""
        ...

    def answer(self, maps: FeatureMaps[np.ndarray], bias: Float[np.ndarray, " k"]) -> HeadResult:
        """`explain` in one pass, where the target of each picture is the class with the highest `logits + bias`."""
        ...

    def path_evidence(
        self,
        maps: FeatureMaps[np.ndarray],
        baseline: FeatureMaps[np.ndarray],
        positions: Float[np.ndarray, " nodes"],
        targets: Float[np.ndarray, "targets k"],
    ) -> FeatureMaps[np.ndarray]:
        """The integrand of integrated gradients of one picture's maps `[C, h, w]`: `[nodes, targets, h, w]`, in logits.

        It is the change of a cell's map on the straight path from the baseline, 0, to the maps, 1, times the gradient
        of each target's score at `positions`. Only for engines that are `is_lifted`.
        """
        ...

    def ablated_logits(
        self,
        maps: FeatureMaps[np.ndarray],
        baseline: FeatureMaps[np.ndarray],
        groups: FeatureMaps[np.ndarray],
    ) -> Float32[np.ndarray, "all_groups k"]:
        """The logits of one picture for each group of channels of a map, with these taken from the baseline.

        The maps are `[C, h, w]`. `groups` are integers `[groups, channels]` for every branch, of which C stands for no
        channel. The groups of all branches follow each other. Only for engines that are `is_lifted`.
        """
        ...

    def compile_tokens(self) -> None:
        """Compile what `tokens` needs, unless that is done. It may take seconds. Raises BundleError and EngineError."""
        ...

    def tokens(self, image: UInt8[np.ndarray, "h w 3"], gradient: Float[np.ndarray, "c gh gw"]) -> TokenResult:
        """The saliency and attention of the transformer's tokens, by a forward and a backward pass through it.

        `image` is a prepared picture and `gradient` the score's gradient with respect to the transformer's map.
        Only for engines with `token_stages`.
        """
        ...
