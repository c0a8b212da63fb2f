"""The section of the machine: which device, driver and packages the figures are from."""

from __future__ import annotations

import os
import platform
import re
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from app import __version__
from benchmarks.gpu.effort import Effort
from benchmarks.gpu.notes import Notes

PACKAGES = ("torch", "timm", "numpy", "opencv-python-headless", "scikit-learn", "grad-cam", "openvino")
_DRIVER = Path("/proc/driver/nvidia/version")


def measure(notes: Notes, effort: Effort, device: str, folder: Path) -> None:
    """Keep what is known of the machine. `fusionlens` is the version of this copy, which need not be installed."""
    notes.keep("date", date.today().isoformat())
    notes.keep("fusionlens", __version__)
    notes.keep("python", platform.python_version())
    notes.keep("cores", len(os.sched_getaffinity(0)))
    notes.keep("packages", {package: _version(package) for package in PACKAGES})
    if torch.device(device).type != "cuda":
        notes.keep("device", f"the CPU ({platform.machine()}), which is no GPU")
        return
    properties = torch.cuda.get_device_properties(device)
    notes.keep("device", properties.name)
    notes.keep("memory_gb", round(properties.total_memory / 1e9, 1))
    notes.keep("capability", f"{properties.major}.{properties.minor}")
    notes.keep("cuda", f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    found = re.search(r"\d+\.[\d.]+", _DRIVER.read_text()) if _DRIVER.is_file() else None
    notes.keep("driver", found[0] if found else "not known")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
