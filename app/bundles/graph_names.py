"""File names and output names of a bundle's compiled graphs, and the limit of their XML.

The export writes the graphs and an engine reads them. Both take the names from here.
"""

from __future__ import annotations

GRAPHS = ("trunk.xml", "trunk.bin", "head.xml", "head.bin")
LIFTED = ("lifted.xml", "lifted.bin")  # older bundles, and heads of another kind, have no such graph
TOKENS = "tokens.xml.gz"  # its constants are in trunk.bin
# The token graph's input and its last output, whichever transformer it is of: the names are older than others.
TOKEN_GRADIENT, TOKEN_ATTENTION = "swin_gradient", "swin_attention"
MAX_XML_BYTES = 16 << 20  # unpacked; the token graph of a Swin-Tiny has 2 MB, that of a Swin-Small 4 MB


def gradient_output(source: str) -> str:
    """The head's output with the score's gradient with respect to a branch's map, or to the `attention`."""
    return f"{source}_gradient"


def evidence_output(branch: str) -> str:
    """The lifted head's output with the integrated gradients of a branch's cells."""
    return f"{branch}_evidence"


def baseline_input(branch: str) -> str:
    """The lifted head's input with the baseline's map of a branch."""
    return f"{branch}_baseline"


def start_input(branch: str) -> str:
    """The lifted head's input with the lifted values of a branch's baseline."""
    return f"{branch}_start"


def lifted_output(branch: str) -> str:
    """The lifted head's output with the lifted values of a branch's baseline."""
    return f"{branch}_lifted"


def channels_input(branch: str) -> str:
    """The lifted head's input with the channels of a branch's map that are replaced by their baseline."""
    return f"{branch}_channels"


def token_output(height: int) -> str:
    """The token graph's output with the saliency of the stage whose grid has this height."""
    return f"tokens_{height}"
