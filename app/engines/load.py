"""Chooses and loads the engine for a bundle, by the settings and by what this machine has."""

from __future__ import annotations

import ctypes
import os
from importlib.util import find_spec
from pathlib import Path

from app.bundles.reader import Bundle
from app.engines.cpu import available_cores
from app.engines.protocol import Engine, EngineKind
from app.errors import EngineError


def load_engine(
    bundle: Bundle,
    kind: EngineKind,
    threads: int | None = None,
    cache: Path | None = None,
    device: str | None = None,
) -> Engine:
    """Load a bundle into the engine `kind`.

    `device` is torch's name of one, by default that of a CUDA GPU if torch finds one. `auto` is torch for a CUDA GPU,
    and if torch is installed and the bundle has no graphs; else OpenVINO. On a CPU the engine uses up to `threads`
    cores, by default all that are available to this process. OpenVINO stores compiled graphs in the folder `cache`, if
    one is given. Raises EngineError if the engine cannot run here or not on the device, and BundleError if the bundle's
    weights or graphs do not match its manifest.
    """
    on_gpu = device is not None and device.startswith("cuda")
    if kind == "openvino" and on_gpu:
        raise EngineError("The OpenVINO engine runs on a CPU: choose the engine torch for a GPU, or the device cpu.")
    if kind == "auto":
        on_gpu = on_gpu or (device is None and _torch_has_cuda())
        kind = "torch" if on_gpu or (not bundle.graphs and _has_torch()) else "openvino"
    if kind == "torch":
        if not _has_torch():
            raise EngineError("The torch engine needs torch and timm: pip install 'fusionlens[torch]'.")
        return _torch_engine(bundle, threads, device)
    if not bundle.graphs:
        raise EngineError(
            f"The bundle {bundle.path} has no compiled graphs: make them with fusionlens-train compile BUNDLE OUT "
            "(pip install 'fusionlens[train]'), or serve it with torch (pip install 'fusionlens[torch]', "
            "FUSIONLENS_ENGINE=torch)."
        )
    from app.engines.openvino import load_openvino_engine  # imported here because OpenVINO is slow to import

    return load_openvino_engine(bundle, threads or available_cores(), cache)


def _torch_engine(bundle: Bundle, threads: int | None, device: str | None) -> Engine:
    import torch  # imported here because torch is an optional dependency

    from app.engines.torch import TorchEngine, load_model

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise EngineError(_no_gpu(torch.__version__, torch.version.cuda))
        # TF32 has 10 bits of mantissa: maps and gradients would not be those of float32.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    # Channels-last is faster for convolutions.
    return TorchEngine(load_model(bundle).to(chosen, memory_format=torch.channels_last))  # type: ignore[call-overload]


def _no_gpu(version: str, cuda: str | None) -> str:
    """Why torch of this version, which was built for this version of CUDA or for none, finds no GPU, in a sentence."""
    reason = (
        f"torch {version} was built without CUDA: install one that was built with it"
        if cuda is None
        else "torch finds none: install NVIDIA's driver, give a container its GPU (--gpus all)"
    )
    return f"The engine shall run on a CUDA GPU, but {reason}, or set FUSIONLENS_DEVICE=cpu."


def _has_torch() -> bool:
    return find_spec("torch") is not None and find_spec("timm") is not None


def _torch_has_cuda() -> bool:
    """Whether torch can use a CUDA GPU. torch, which is slow to import, is imported only if there is a driver."""
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    if not _has_torch():
        return False
    import torch

    return bool(torch.cuda.is_available())
