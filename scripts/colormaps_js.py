"""The colour maps as a module of the page: `python -m scripts.colormaps_js` writes it anew."""

from __future__ import annotations

import base64
from pathlib import Path

from app.drawing.overlay import COLORMAPS, colours

MODULE = Path(__file__).parents[1] / "app" / "web" / "colormaps.js"
_AROUND = """\
// The colour maps of app/drawing/colormaps.npz: 256 colours each, as red, green and blue. `make openapi` writes this.

const bytes = (encoded) => Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));

/** Name → the bytes of its colours. */
export const COLORMAPS = {
%s
};
"""


def module() -> str:
    """The module's text."""
    encoded = {name: base64.b64encode(colours(name).tobytes()).decode() for name in COLORMAPS}
    return _AROUND % "\n".join(f'  {name}: bytes("{text}"),' for name, text in encoded.items())


if __name__ == "__main__":
    MODULE.write_text(module(), encoding="utf-8")
