"""Paths of files that are part of the package."""

from __future__ import annotations

from pathlib import Path

WEB = Path(__file__).parent / "web"
# A drawn picture. The commands that are printed and documented use it, so that they can be copied and run unchanged.
EXAMPLE = WEB / "examples" / "drawn.webp"
DEMO_BUNDLE = Path(__file__).parents[1] / "weights" / "demo"
