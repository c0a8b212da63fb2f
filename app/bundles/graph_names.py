"""The names in a bundle's compiled graphs: of their files and of their outputs.

The export writes the graphs and an engine reads them, so both take the names from here.
"""

from __future__ import annotations

GRAPHS = ("trunk.xml", "trunk.bin", "head.xml", "head.bin")
TOKENS = "tokens.xml.gz"  # its constants lie in trunk.bin


def token_output(height: int) -> str:
    """What a graph calls the saliency of the stage whose grid is so high."""
    return f"tokens_{height}"
