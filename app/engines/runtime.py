"""OpenVINO without its converter of models, which it imports at once: 15 MB and 60 ms for what is not needed here.

A program that needs `openvino.convert_model` takes it from `openvino.tools.ovc`, or imports openvino before this.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _without(module: str) -> Iterator[None]:
    """While this lasts, a module that was not imported before cannot be imported."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # Python raises ModuleNotFoundError for it
    try:
        yield
    finally:
        del sys.modules[module]


with _without("openvino.tools.ovc"):
    import openvino as ov
    import openvino.opset13 as ops

__all__ = ["ops", "ov"]
