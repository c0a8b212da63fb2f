"""What runs a bundle: the trunk (both backbones, no gradient) and the head (logits, attention and their gradients)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8

from app.errors import EngineError
from app.inference.bundle import Bundle
from app.inference.cores import available_cores
from app.models.feature_maps import FeatureMaps

EngineKind = Literal["auto", "openvino", "torch"]


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
    passes: int
    batch: int
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


def token_output(height: int) -> str:
    """What a graph calls the saliency of the stage whose grid is so high."""
    return f"tokens_{height}"


def load_engine(bundle: Bundle, kind: EngineKind, threads: int | None = None, cache: Path | None = None) -> Engine:
    """The engine `kind` for a bundle; `auto` is torch where torch finds a CUDA GPU, else OpenVINO if it has graphs.

    On a CPU it uses up to `threads` cores, by default all that there are for this process. OpenVINO keeps what
    compiling took in the folder `cache`, if one is given. Raises EngineError if the engine cannot run here, and
    BundleError if the bundle's weights or graphs are not those of its manifest.
    """
    if kind == "torch" or (kind == "auto" and (_torch_has_cuda() or (not bundle.graphs and _has_torch()))):
        if not _has_torch():
            raise EngineError("The torch engine needs torch and timm: pip install 'fusionlens[torch]'.")
        import torch  # only here: torch is an extra

        from app.inference.torch_engine import TorchEngine, load_model

        if threads is not None:
            torch.set_num_threads(threads)
        return TorchEngine(load_model(bundle))
    if not bundle.graphs:
        raise EngineError(
            f"The bundle {bundle.path} has no compiled graphs: make them with python -m training compile BUNDLE OUT "
            "(pip install 'fusionlens[train]'), or serve it with torch (pip install 'fusionlens[torch]', "
            "FUSIONLENS_ENGINE=torch)."
        )
    from app.inference.openvino_engine import load_openvino_engine  # only here: it takes a while to load

    return load_openvino_engine(bundle, threads or available_cores(), cache)


def _has_torch() -> bool:
    return find_spec("torch") is not None and find_spec("timm") is not None


def _torch_has_cuda() -> bool:
    """Whether torch can use a GPU; torch, which takes seconds to import, is asked only where there is a driver."""
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    if not _has_torch():
        return False
    import torch

    return bool(torch.cuda.is_available())
