"""Checks of what a bundle's tensors stand for: a part whose numbers cannot be right is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import BundleError


def require(holds: bool, fault: str) -> None:
    """Raises ValueError with the fault unless something holds."""
    if not holds:
        raise ValueError(fault)


@contextmanager
def reading(file: str, what: str, advice: str) -> Iterator[None]:
    """Raises BundleError in place of what is raised by numbers that cannot be right."""
    try:
        yield
    except (KeyError, ValueError, TypeError) as error:
        fault = f"it has no tensor {error}" if isinstance(error, KeyError) else str(error)
        raise BundleError(file, f"is not a readable {what} ({fault}): {advice}") from error
