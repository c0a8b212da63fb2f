"""Puts several drawings of one picture side by side, each with a title above and a colour bar below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from app.drawing.overlay import Drawing, Legend, colours
from app.shapes import UInt8


class Panel(NamedTuple):
    """One drawing with its title and the unit of its map."""

    title: str
    drawing: Drawing
    units: str


def side_by_side(panels: Sequence[Panel]) -> UInt8[np.ndarray, "h w 3"]:
    """The panels from left to right. Panels with the same scale share one colour bar; otherwise each has its own."""
    pictures = [Image.fromarray(panel.drawing.picture) for panel in panels]
    width, height = pictures[0].size
    letters_px = min(24.0, max(10.0, width / 16))
    gap, line = round(letters_px / 2), round(1.5 * letters_px)
    canvas = Image.new("RGB", ((width + gap) * len(panels) + gap, gap + line + height + gap + line + line), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(letters_px)
    for index, (panel, picture) in enumerate(zip(panels, pictures, strict=True)):
        left = gap + index * (width + gap)
        pen.text((left + width / 2, gap + line / 2), panel.title, fill="black", font=font, anchor="mm")
        canvas.paste(picture, (left, gap + line))
    scales = [(panel.drawing.legend, panel.units) for panel in panels if not panel.drawing.legend.no_positive_evidence]
    shared = len({(scale.low, scale.high, units) for scale, units in scales}) == 1
    top = gap + line + height + gap
    for index, panel in enumerate(panels):
        legend, units = scales[0] if shared else (panel.drawing.legend, panel.units)
        if legend.no_positive_evidence or (shared and index > 0):
            continue
        left = gap + index * (width + gap)
        right = canvas.width - gap if shared else left + width
        canvas.paste(_bar(legend, right - left, line), (left, top))
        pen.text((left, top + 1.5 * line), f"{legend.low:.3g}", fill="black", font=font, anchor="lm")
        named = f"{legend.high:.3g}" if units == "unitless" else f"{legend.high:.3g} {units}"
        pen.text((right, top + 1.5 * line), named, fill="black", font=font, anchor="rm")
    return np.asarray(canvas)


def _bar(legend: Legend, width_px: int, height_px: int) -> Image.Image:
    return Image.fromarray(colours(legend.colormap)[None]).resize((width_px, height_px), Image.Resampling.BILINEAR)
