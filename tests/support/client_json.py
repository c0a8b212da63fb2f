"""The client's values back as the JSON that the service answers with, so that both can be compared field by field."""

from __future__ import annotations

import dataclasses
import inspect
from datetime import datetime
from typing import Any

import numpy as np
from fusionlens_client import answers
from fusionlens_client.decoding import wire_names

# Lists of labels with a number each, which the client has as dicts: the name of the list, and of the number.
RANKED = {"probabilities": "probability", "shares": "share"}


def as_json(value: Any) -> Any:
    """What the service has answered, as far as the client knows it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = next(kind for kind in inspect.getmro(type(value)) if kind.__module__ == answers.__name__)
        return {wire: _field(wire, getattr(value, name)) for name, wire in wire_names(kind).items()}
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return [as_json(one) for one in value]
    if isinstance(value, dict):
        return {name: as_json(one) for name, one in value.items()}
    return value


def _field(wire: str, value: Any) -> Any:
    if wire in RANKED and isinstance(value, dict):
        return [{"label": label, RANKED[wire]: number} for label, number in value.items()]
    return as_json(value)
