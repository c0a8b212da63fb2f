"""Files that come with the package."""

from __future__ import annotations

from pathlib import Path

WEB = Path(__file__).parent / "web"
# A drawn picture, so that the commands that are printed and documented work as they stand.
EXAMPLE = WEB / "examples" / "drawn.webp"
DEMO_BUNDLE = Path(__file__).parents[1] / "weights" / "demo"
