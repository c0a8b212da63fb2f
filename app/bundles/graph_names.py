"""The names in a bundle's compiled graphs: of their files and of their outputs.

The export writes the graphs and an engine reads them, so both take the names from here.
"""

from __future__ import annotations

GRAPHS = ("trunk.xml", "trunk.bin", "head.xml", "head.bin")
TOKENS = "tokens.xml.gz"  # its constants lie in trunk.bin


def gradient_output(source: str) -> str:
    """The output of the head that holds the score's gradient by a branch's map, or by the `attention`."""
    return f"{source}_gradient"


def token_output(height: int) -> str:
    """The output of the tokens' graph that holds the saliency of the stage whose grid has this height."""
    return f"tokens_{height}"
