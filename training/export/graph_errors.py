"""What is known of graphs without OpenVINO: how they are refused, and whether they can be made here at all.

Only what makes graphs imports OpenVINO, and only then, so that a machine can train without it.
"""

from __future__ import annotations

from importlib.util import find_spec

from training.errors import TrainingProblem

WITHOUT_TOKENS = "The compiled graphs do not explain the transformer's tokens"  # how the note on it begins
UNCHECKED = (
    "OpenVINO is not installed here, so that it was not checked whether graphs can be made of the model: export needs "
    "them, and OpenVINO (pip install openvino)"
)


class GraphError(TrainingProblem, ValueError):
    """Graphs that cannot be made, or that differ from their module. The message names the part and the reason."""


class TokenGraphError(GraphError):
    """The graph of the transformer's tokens alone cannot be made, or differs from its module."""


def has_openvino() -> bool:
    """Whether OpenVINO is installed, without importing it."""
    return find_spec("openvino") is not None


def require_openvino() -> None:
    """Raises GraphError where no graphs can be made, before anything is computed for them."""
    if not has_openvino():
        raise GraphError("graphs are made with OpenVINO, which is not installed here: pip install openvino")
