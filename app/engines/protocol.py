"""What runs a bundle: the trunk (both backbones, no gradient) and the head (logits, attention and their gradients)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8

from app.models.feature_maps import FeatureMaps

EngineKind = Literal["auto", "openvino", "torch"]


@dataclass(frozen=True)
class HeadResult:
    """What the head gives for a batch of maps and targets.

    Gradients are those of `sum(logits * target)` for each picture: `gradients` by each branch's map `[B, C, h, w]`,
    `attention_gradient` by the attention. Both of the attention's are None in a model without cross-attention.
    """

    logits: Float32[np.ndarray, "b classes"]
    gradients: FeatureMaps[np.ndarray]
    attention: Float32[np.ndarray, "b heads swin_cells cnn_cells"] | None = None
    attention_gradient: Float32[np.ndarray, "b heads swin_cells cnn_cells"] | None = None


@dataclass(frozen=True)
class TokenResult:
    """What the Swin's tokens say of one picture.

    `saliency` holds |gradient × token| of each stage by the height of its grid, `attention` the weights that the cells
    of the Swin's map give each other in its last block.
    """

    saliency: Mapping[int, Float32[np.ndarray, "_h _w"]]
    attention: Float32[np.ndarray, "heads cells cells"]


@runtime_checkable
class Engine(Protocol):
    """Runs one bundle, numpy in and out, safe to call from several threads, without state between calls.

    `passes` is how many calls at once use the machine best, `batch` how many pictures to a call. `token_stages` are the
    heights of the grids of the Swin's stages, the finest first, or empty where it cannot show its tokens.
    """

    name: str
    version: str
    concurrency: int
    batch_size: int
    token_stages: tuple[int, ...]

    def encode(self, images: UInt8[np.ndarray, "b h w 3"]) -> FeatureMaps[np.ndarray]:
        """Prepared pictures to feature maps, float32."""
        ...

    def classify(self, maps: FeatureMaps[np.ndarray]) -> Float32[np.ndarray, "b k"]:
        """Feature maps to logits, where nobody asked for a reason."""
        ...

    def explain(self, maps: FeatureMaps[np.ndarray], target: Float[np.ndarray, "b k"]) -> HeadResult:
        """Feature maps and a weighting of the logits to logits, attention and all gradients."""
        ...

    def answer(self, maps: FeatureMaps[np.ndarray], bias: Float[np.ndarray, " k"]) -> HeadResult:
        """`explain` for the class of each picture whose logit plus `bias` is the highest, in the same pass."""
        ...

    def tokens(self, image: UInt8[np.ndarray, "h w 3"], swin_gradient: Float[np.ndarray, "c gh gw"]) -> TokenResult:
        """A prepared picture and the score's gradient at the Swin's map, to its tokens: a pass to and fro through it.

        Only where there are `token_stages`.
        """
        ...
