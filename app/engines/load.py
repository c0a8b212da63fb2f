"""The engine for a bundle: which one, by the settings and by what this machine has."""

from __future__ import annotations

import ctypes
import os
from importlib.util import find_spec
from pathlib import Path

from app.bundles.reader import Bundle
from app.engines.cpu import available_cores
from app.engines.protocol import Engine, EngineKind
from app.errors import EngineError


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

        from app.engines.torch import TorchEngine, load_model

        if threads is not None:
            torch.set_num_threads(threads)
        return TorchEngine(load_model(bundle))
    if not bundle.graphs:
        raise EngineError(
            f"The bundle {bundle.path} has no compiled graphs: make them with fusionlens-train compile BUNDLE OUT "
            "(pip install 'fusionlens[train]'), or serve it with torch (pip install 'fusionlens[torch]', "
            "FUSIONLENS_ENGINE=torch)."
        )
    from app.engines.openvino import load_openvino_engine  # only here: it takes a while to load

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
