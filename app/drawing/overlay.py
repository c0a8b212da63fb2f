"""Draws a heatmap over the user's own picture, with a legend of the colours.

Only positive evidence is coloured, on a scale from 0 to its maximum, so that weak differences do not look strong. Where
the evidence is zero or negative, the picture is unchanged. A map without positive evidence is not coloured at all, and
the drawing says so. A constant positive map has the top colour everywhere. What the model did not see is grey and dark,
outside a thin white line.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from app.errors import BadParameter
from app.pictures.rectangle import Rectangle
from app.shapes import Bool, Float, Float32, UInt8, UInt32

COLORMAPS = ("viridis", "inferno", "magma", "plasma", "cividis", "turbo", "jet")
# A difference below this part of the map's largest magnitude may be float32 rounding, and counts as none.
_ROUNDING = 1e-4
# Colours fade in over this first part of the scale: a hard edge at 0 would draw attention to the weakest evidence.
_FADE = 0.05
_NOT_SEEN_BRIGHTNESS = 0.4
# The colour table has this many entries for each of the 255 levels of a colour map, so that a step is less than one
# grey level even where colours fade in. The number is odd, so that entries and levels are rounded at the same places.
_STEPS_PER_LEVEL = 33
NO_EVIDENCE = "no positive evidence"
SMALLEST_PX = 32  # the smallest longest side of a drawing
_LEGIBLE_PX = 8.0  # the smallest font size
_LINE_HEIGHT = 1.35  # in font sizes


@dataclass(frozen=True)
class Style:
    """How a heatmap is drawn.

    Opacity rises from `alpha_min` at the low end of the colour map to `alpha_max` at its high end; equal values make it
    uniform. In the first twentieth of the scale, colours also fade in. `clip` are two percentiles of the map's positive
    cells that the ends of the colour map stand for, which increases contrast; with None, the ends stand for 0 and the
    maximum. Cells below the fraction `threshold` of the high end are not coloured. `contour` draws a line around the
    area that reaches this fraction of the high end. `size_px` is the longest side of the drawing; smaller pictures are
    not enlarged. Raises BadParameter for values out of range.
    """

    colormap: str = "viridis"
    alpha_min: float = 0.0
    alpha_max: float = 0.7
    clip: tuple[float, float] | None = None
    contour: float | None = None
    size_px: int | None = None
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.colormap not in COLORMAPS:
            raise BadParameter(f"There is no colour map {self.colormap!r}: choose one of {', '.join(COLORMAPS)}.")
        if not 0 <= self.alpha_min <= self.alpha_max <= 1:
            raise BadParameter(
                f"The opacity goes from {self.alpha_min:g} to {self.alpha_max:g}: "
                "choose both from 0 to 1, and alpha_min not above alpha_max."
            )
        if self.clip is not None and not 0 <= self.clip[0] < self.clip[1] <= 100:
            raise BadParameter(
                f"The percentiles to clip to are {self.clip[0]:g} and {self.clip[1]:g}: "
                "choose both from 0 to 100, the lower one first."
            )
        if self.contour is not None and not 0 < self.contour < 1:
            raise BadParameter(f"The contour is at {self.contour:g} of the scale: choose a fraction between 0 and 1.")
        if not 0 <= self.threshold < 1:
            raise BadParameter(
                f"The threshold is {self.threshold:g} of the scale: choose a fraction from 0 to less than 1."
            )
        if self.size_px is not None and self.size_px < SMALLEST_PX:
            raise BadParameter(f"A drawing of {self.size_px} px shows nothing: choose {SMALLEST_PX} px or more.")


@dataclass(frozen=True)
class Legend:
    """How the map's values are drawn in the PNG."""

    # Values beyond an end of the colour map have the colour of that end. If the percentiles of `clip` almost coincide,
    # the low end stays 0. With `no_positive_evidence`, both ends are 0.

    __pydantic_config__: ClassVar[dict[str, bool]] = {"use_attribute_docstrings": True}  # the API answers with it

    colormap: str
    """name of the colour map"""
    low: float
    """the value at the low end of the colour map"""
    high: float
    """the value at the high end of the colour map"""
    minimum: float
    """the map's smallest value"""
    maximum: float
    """the map's largest value"""
    clip: tuple[float, float] | None
    """percentiles of the positive evidence that the ends of the colour map stand for, if any"""
    no_positive_evidence: bool
    """whether nothing in the map speaks for the target, so that nothing is coloured"""


@dataclass(frozen=True)
class Drawing:
    """An overlay in RGB with its legend."""

    picture: UInt8[np.ndarray, "h w 3"]
    legend: Legend


def draw(
    picture: Image.Image,
    heatmap: Float[np.ndarray, "grid_h grid_w"],
    seen: Rectangle,
    style: Style,
    legend: Legend | None = None,
    nothing: str = NO_EVIDENCE,
) -> Drawing:
    """Draw a heatmap over an RGB picture.

    `seen` is the region of the picture that the model saw; the cells of the heatmap tile it. The signed map is
    interpolated bilinearly between the centres of the cells, and constant from there to the edges of the region.
    `legend` is the legend of another map with the same unit, to draw both on one scale; by default the map has its own.
    `nothing` is written on the picture if nothing is coloured. Raises ValueError for a heatmap that is not finite, and
    for a region outside the picture.
    """
    own_legend = legend_of(heatmap, style)
    legend = own_legend if legend is None or own_legend.no_positive_evidence else legend
    if style.size_px is not None and (scale := style.size_px / max(picture.size)) < 1:
        picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BOX)
        seen = seen.scaled(scale, scale)
    rows = _pixel_range(seen.top_px, seen.height_px, picture.height)
    columns = _pixel_range(seen.left_px, seen.width_px, picture.width)
    canvas = _dim_outside(picture, rows, columns)
    if legend.no_positive_evidence:
        _draw_banner(canvas, nothing)
    else:
        row_weights = _interpolation(rows, seen.top_px, seen.height_px, heatmap.shape[0])
        column_weights = _interpolation(columns, seen.left_px, seen.width_px, heatmap.shape[1])
        evidence = heatmap / legend.high
        layer = _evidence_layer(row_weights, evidence, column_weights, _palette(legend.low / legend.high, style))
        canvas.paste(layer, (columns.start, rows.start), layer)
        if style.contour is not None:
            _draw_contour(
                row_weights @ evidence @ column_weights.T >= style.contour, canvas, (columns.start, rows.start)
            )
    return Drawing(np.asarray(canvas), legend)


def legend_of(heatmap: Float[np.ndarray, "grid_h grid_w"], style: Style) -> Legend:
    """The legend that `draw` computes for this heatmap. Raises ValueError for a heatmap that is not finite."""
    if not np.isfinite(heatmap).all():
        raise ValueError("the heatmap has values that are not finite")
    minimum, maximum = float(heatmap.min()), float(heatmap.max())
    has_evidence = maximum > max(0.0, -minimum * _ROUNDING)
    low, high = 0.0, maximum if has_evidence else 0.0
    if has_evidence and style.clip is not None:
        lower, upper = (float(value) for value in np.percentile(heatmap[heatmap > 0], style.clip))
        # Percentiles that almost coincide would stretch rounding errors over the whole colour map.
        low, high = (lower if upper - lower > upper * _ROUNDING else 0.0), upper
    return Legend(style.colormap, low, high, minimum, maximum, style.clip, not has_evidence)


def _pixel_range(start_px: float, length_px: float, size_px: int) -> slice:
    """The pixels whose centres lie in an interval, or the nearest pixel if there are none."""
    end_px = start_px + length_px
    if not (length_px > 0 and end_px > 0 and start_px < size_px):
        raise ValueError(f"the region seen, {start_px:g} to {end_px:g} px, is outside the picture's {size_px} px")
    first = min(max(math.ceil(start_px - 0.5), 0), size_px - 1)
    return slice(first, max(first + 1, min(math.ceil(end_px - 0.5), size_px)))


def _interpolation(pixels: slice, start_px: float, length_px: float, cells: int) -> Float32[np.ndarray, "pixels cells"]:
    """The matrix of linear interpolation along one axis, from the centres of cells to the centres of pixels."""
    centre_px = np.arange(pixels.start, pixels.stop) + 0.5
    cell = np.clip((centre_px - start_px) * cells / length_px - 0.5, 0, cells - 1)
    return np.asarray(np.maximum(1 - np.abs(cell[:, None] - np.arange(cells)), 0), dtype=np.float32)


def _evidence_layer(
    row_weights: Float32[np.ndarray, "h grid_h"],
    evidence: Float[np.ndarray, "grid_h grid_w"],
    column_weights: Float32[np.ndarray, "w grid_w"],
    palette: UInt32[np.ndarray, " steps"],
) -> Image.Image:
    """The RGBA layer to paste over the picture. `evidence` is in units of the high end of the scale."""
    last = len(palette) - 1
    # Scaled on the few cells of the grid, not on the many pixels. Adding 0.5 turns truncation into rounding.
    step = row_weights @ (evidence * last + 0.5).astype(np.float32) @ column_weights.T
    pixels = palette.take(np.clip(step, 0, last, out=step).astype(np.uint16))
    return Image.frombuffer("RGBA", pixels.shape[::-1], pixels, "raw", "RGBA", 0, 1)


@functools.lru_cache(maxsize=16)
def _palette(low: float, style: Style) -> UInt32[np.ndarray, " steps"]:
    """The colour table: packed RGBA for evidence from 0 to the high end of the scale in equal steps.

    `low` is the low end of the scale, in units of its high end.
    """
    steps = min(math.ceil(255 * _STEPS_PER_LEVEL / (1 - low)), np.iinfo(np.uint16).max)
    evidence = np.arange(steps + 1, dtype=np.float32) / steps
    level = np.rint(255 * np.clip((evidence - low) / (1 - low), 0, 1)).astype(np.intp)
    opacity = np.minimum(evidence / _FADE, 1) * (style.alpha_min + (style.alpha_max - style.alpha_min) * level / 255)
    opacity[evidence < style.threshold] = 0
    rgba = np.column_stack([colours(style.colormap)[level], np.rint(255 * opacity).astype(np.uint8)])
    return rgba.view(np.uint32)[:, 0]


@functools.cache
def colours(colormap: str) -> UInt8[np.ndarray, "256 3"]:
    """The 256 colours of a colour map, from its low end to its high end."""
    with np.load(Path(__file__).with_name("colormaps.npz")) as colormaps:
        return np.asarray(colormaps[colormap], dtype=np.uint8)


def _dim_outside(picture: Image.Image, rows: slice, columns: slice) -> Image.Image:
    """A copy of the picture that is grey and dark outside a region, with a white line around the region."""
    canvas = picture.copy()
    (left, right), (top, bottom) = (columns.start, columns.stop), (rows.start, rows.stop)
    above, below = (0, 0, picture.width, top), (0, bottom, picture.width, picture.height)
    for band in (above, below, (0, top, left, bottom), (right, top, picture.width, bottom)):
        if band[0] < band[2] and band[1] < band[3]:
            grey = picture.crop(band).convert("L")
            canvas.paste(grey.point(lambda brightness: brightness * _NOT_SEEN_BRIGHTNESS), band)
    line_px = 1 + max(picture.size) // 500
    around = (left - line_px, top - line_px, right + line_px - 1, bottom + line_px - 1)
    ImageDraw.Draw(canvas).rectangle(around, outline="white", width=line_px)
    return canvas


def _draw_contour(inside: Bool[np.ndarray, "h w"], canvas: Image.Image, corner: tuple[int, int]) -> None:
    """Draw a white line with black edges, visible on any colour, along the inner border of a region."""
    inner = np.pad(inside, 1, mode="edge")
    inner = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    border = Image.fromarray((inside & ~inner).astype(np.uint8) * 255)
    line_px = 1 + max(canvas.size) // 500
    for colour, width_px in (("black", line_px + 2), ("white", line_px)):
        reach_px = width_px // 2
        # Pillow 12.3 divides by zero, and ends the process, in a filter of one pixel.
        line = border.filter(ImageFilter.MaxFilter(2 * reach_px + 1)) if reach_px else border
        canvas.paste(colour, corner, line)


def _draw_banner(canvas: Image.Image, text: str) -> None:
    """Write a few words in white on a black band at the bottom of the picture.

    The text is broken into the lines that allow the largest font, up to a limit. If no legible font fits, the picture
    is left unchanged.
    """
    width, height = canvas.size
    font_of_100_px = ImageFont.load_default(100)

    def fitting_px(lines: tuple[str, ...]) -> float:
        widest = max(font_of_100_px.getlength(line) for line in lines) / 100
        return min(0.9 * width / widest, 0.5 * height / (_LINE_HEIGHT * len(lines)), 15 + max(height, width) / 50)

    words = text.split()
    lines = max(((text,), (" ".join(words[:-1]), words[-1]), tuple(words)), key=fitting_px)
    letters_px = fitting_px(lines)
    if letters_px < _LEGIBLE_PX:
        return
    line_px = math.ceil(_LINE_HEIGHT * letters_px)
    top_px = height - line_px * len(lines)
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((0, top_px, width, height), fill="black")
    font = ImageFont.load_default(letters_px)
    for index, line in enumerate(lines):
        pen.text((width / 2, top_px + (index + 0.5) * line_px), line, fill="white", font=font, anchor="mm")
