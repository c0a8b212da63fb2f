"""What runs a bundle: the trunk (both backbones, no gradient) and the head (logits, attention and their gradients)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8

from app.errors import EngineError
from app.inference.bundle import Bundle
from app.models.feature_maps import FeatureMaps

EngineKind = Literal["auto", "torch"]


@dataclass(frozen=True)
class HeadResult:
    """What the head gives for a batch of maps and targets. Gradients are of `sum(logits * target)`, per picture.

    A gradient is None where the model lacks what it belongs to (a branch, or the attention).
    """

    logits: Float32[np.ndarray, "b classes"]
    attention: Float32[np.ndarray, "b heads swin_cells cnn_cells"] | None
    cnn_gradient: Float32[np.ndarray, "b cnn_c cnn_h cnn_w"] | None
    swin_gradient: Float32[np.ndarray, "b swin_c swin_h swin_w"] | None
    attention_gradient: Float32[np.ndarray, "b heads swin_cells cnn_cells"] | None


@runtime_checkable
class Engine(Protocol):
    """Runs one bundle, numpy in and out, safe to call from several threads, without state between calls."""

    name: str
    version: str

    def encode(self, images: UInt8[np.ndarray, "b h w 3"]) -> FeatureMaps[np.ndarray]:
        """Prepared pictures to feature maps, float32."""
        ...

    def classify(self, maps: FeatureMaps[np.ndarray]) -> Float32[np.ndarray, "b k"]:
        """Feature maps to logits, where nobody asked for a reason."""
        ...

    def explain(self, maps: FeatureMaps[np.ndarray], target: Float[np.ndarray, "b k"]) -> HeadResult:
        """Feature maps and a weighting of the logits to logits, attention and all gradients."""
        ...


def load_engine(bundle: Bundle, kind: EngineKind) -> Engine:
    """The engine `kind` for a bundle. There is one so far, torch, which `auto` takes too.

    Raises EngineError if it cannot run here, and BundleError if the bundle's weights do not fit its architecture.
    """
    if find_spec("torch") is None or find_spec("timm") is None:
        raise EngineError("The torch engine needs torch and timm: pip install 'fusionlens[torch]'.")
    from app.inference.torch_engine import TorchEngine, load_model  # imported only where it is used: torch is an extra

    return TorchEngine(load_model(bundle))
