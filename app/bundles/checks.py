"""Checks of what a bundle's tensors stand for: a part whose numbers cannot be right is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from app.errors import BundleError

LARGEST = 1e6  # beyond what any fit gives
_ORTHONORMAL = 0.01  # beyond the rounding of a basis to fp16


def require(holds: bool, fault: str) -> None:
    """Raises ValueError with the fault unless something holds."""
    if not holds:
        raise ValueError(fault)


def require_bounded(values: np.ndarray, name: str) -> None:
    """Raises ValueError if a value is not finite, or larger than any fit gives."""
    require(bool((np.abs(values.astype(np.float64)) < LARGEST).all()), f"{name} has a value beyond {LARGEST:g}")


def require_basis(mean: np.ndarray, basis: np.ndarray, channels: int, branch: str) -> None:
    """Raises ValueError unless these are the mean and orthonormal directions `[channels, q]` of a branch's map."""
    require(mean.shape == (channels,) and mean.dtype == np.float32, f"the {branch}'s mean does not fit its map")
    require(basis.ndim == 2 and len(basis) == channels, f"the {branch}'s basis does not fit its map")
    require(basis.dtype == np.float16, f"the {branch}'s basis is not float16")
    wide = basis.astype(np.float32)
    off = float(np.abs(wide.T @ wide - np.eye(basis.shape[1])).max(initial=0.0))
    require(off < _ORTHONORMAL, f"the {branch}'s basis is not orthonormal")


@contextmanager
def reading(file: str, what: str, advice: str) -> Iterator[None]:
    """Raises BundleError in place of what is raised by numbers that cannot be right."""
    try:
        yield
    except (KeyError, ValueError, TypeError) as error:
        fault = f"it has no tensor {error}" if isinstance(error, KeyError) else str(error)
        raise BundleError(file, f"is not a readable {what} ({fault}): {advice}") from error
