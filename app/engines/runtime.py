"""OpenVINO without its converter of models, which it imports at once: 15 MB and 60 ms for what is not needed here.

Whoever asks for `openvino.convert_model` still gets it: it is imported then.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

_CONVERTER = "openvino.tools.ovc"


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


with _without(_CONVERTER):
    import openvino as ov
    import openvino.opset13 as ops


def _missing(name: str) -> Any:
    """An attribute that openvino lacks (PEP 562)."""
    if name == "convert_model":
        return import_module(_CONVERTER).convert_model
    raise AttributeError(f"module 'openvino' has no attribute {name!r}")


if not hasattr(ov, "convert_model"):
    vars(ov).setdefault("__getattr__", _missing)

__all__ = ["ops", "ov"]
