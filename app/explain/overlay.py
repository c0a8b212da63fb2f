"""A heatmap drawn on the user's own picture, with a legend that says what the colours stand for.

Only positive evidence is coloured, on a scale from 0 to its maximum, so that weak differences are not made to look
strong: where the evidence is zero or negative the picture stays as it is, a map without positive evidence is not
coloured at all and the drawing says so, and a constant positive map is evenly of the top colour. What the model did
not see is grey and dark, outside a thin white line.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from app.errors import BadParameter

COLORMAPS: dict[str, int] = {
    "viridis": cv2.COLORMAP_VIRIDIS,
    "inferno": cv2.COLORMAP_INFERNO,
    "magma": cv2.COLORMAP_MAGMA,
    "plasma": cv2.COLORMAP_PLASMA,
    "cividis": cv2.COLORMAP_CIVIDIS,
    "turbo": cv2.COLORMAP_TURBO,
    "jet": cv2.COLORMAP_JET,
}
# Below this part of the map's largest magnitude, a difference may be float32 rounding and counts as none.
_ROUNDING = 1e-4
# Colours fade in over this first part of the scale: a hard edge at 0 would make the weakest evidence catch the eye.
_FADE = 0.05
_NOT_SEEN_BRIGHTNESS = 0.4
_NO_EVIDENCE_LINES = (("no positive evidence",), ("no positive", "evidence"), ("no", "positive", "evidence"))
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LINE_PX = 40  # height of a line of text at scale 1
_LEGIBLE_SCALE = 0.25


@dataclass(frozen=True)
class Style:
    """How a heatmap is drawn.

    Opacity goes from `alpha_min` at the low end of the colour map to `alpha_max` at its high end; if both are the
    same, it is uniform. Over the first twentieth above zero evidence, colours fade in. `clip` names two percentiles of
    the map's positive cells for the ends of the colour map to stand for, for contrast; with None they stand for 0 and
    the maximum. Raises BadParameter.
    """

    colormap: str = "viridis"
    alpha_min: float = 0.0
    alpha_max: float = 0.7
    clip: tuple[float, float] | None = None

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


class Box(NamedTuple):
    """A region of a picture. Coordinates are continuous: a pixel's centre is at +0.5."""

    left_px: float
    top_px: float
    width_px: float
    height_px: float


@dataclass(frozen=True)
class Legend:
    """What an overlay's colours stand for, in the heatmap's unit.

    `low` and `high` are what the ends of the colour map stand for (values beyond them have the end's colour);
    `minimum` and `maximum` are the whole map's. `clip` holds the percentiles that the ends were taken from, if any;
    where these all but coincide, the low end stays 0. With `no_positive_evidence` nothing is coloured, and both ends
    are 0.
    """

    colormap: str
    low: float
    high: float
    minimum: float
    maximum: float
    clip: tuple[float, float] | None
    no_positive_evidence: bool


@dataclass(frozen=True)
class Drawing:
    """An overlay in RGB, and how to read it."""

    picture: UInt8[np.ndarray, "h w 3"]
    legend: Legend


def draw(
    picture: UInt8[np.ndarray, "h w 3"], heatmap: Float[np.ndarray, "grid_h grid_w"], seen: Box, style: Style
) -> Drawing:
    """The heatmap over an RGB picture, whose region `seen` is what the model saw and what the cells tile.

    Between the cells' centres the signed map is interpolated bilinearly, and continued evenly to the region's edges.
    Raises ValueError for a heatmap that is not finite, or a region outside the picture.
    """
    legend = legend_of(heatmap, style)
    height, width = picture.shape[:2]
    rows, columns = _pixels(seen.top_px, seen.height_px, height), _pixels(seen.left_px, seen.width_px, width)
    canvas = _not_seen(picture, rows, columns)
    if legend.no_positive_evidence:
        canvas[rows, columns] = picture[rows, columns]
        _stamp_no_evidence(canvas)
        return Drawing(canvas, legend)
    down = _interpolation(rows, seen.top_px, seen.height_px, heatmap.shape[0])
    across = _interpolation(columns, seen.left_px, seen.width_px, heatmap.shape[1])
    evidence = down @ (heatmap / legend.high).astype(np.float32) @ across.T
    _colour(canvas[rows, columns], picture[rows, columns], evidence, legend.low / legend.high, style)
    return Drawing(canvas, legend)


def legend_of(heatmap: Float[np.ndarray, "grid_h grid_w"], style: Style) -> Legend:
    """The legend that `draw` gives to this heatmap. Raises ValueError for a heatmap that is not finite."""
    if not np.isfinite(heatmap).all():
        raise ValueError("the heatmap has values that are not finite")
    minimum, maximum = float(heatmap.min()), float(heatmap.max())
    evident = maximum > max(0.0, -minimum * _ROUNDING)
    low, high = 0.0, maximum if evident else 0.0
    if evident and style.clip is not None:
        lower, upper = (float(value) for value in np.percentile(heatmap[heatmap > 0], style.clip))
        # Percentiles that all but coincide would stretch rounding over the whole colour map.
        low, high = (lower if upper - lower > upper * _ROUNDING else 0.0), upper
    return Legend(style.colormap, low, high, minimum, maximum, style.clip, not evident)


def _pixels(start_px: float, length_px: float, size_px: int) -> slice:
    """The pixels whose centre lies in an interval, or the nearest one where it is too short to hold any."""
    end_px = start_px + length_px
    if not (length_px > 0 and end_px > 0 and start_px < size_px):
        raise ValueError(f"the region seen, {start_px:g} to {end_px:g} px, is outside the picture's {size_px} px")
    first = min(max(math.ceil(start_px - 0.5), 0), size_px - 1)
    return slice(first, max(first + 1, min(math.ceil(end_px - 0.5), size_px)))


def _interpolation(pixels: slice, start_px: float, length_px: float, cells: int) -> Float32[np.ndarray, "pixels cells"]:
    """Linear interpolation along one axis as a matrix, from values at the cells' centres to those at the pixels'."""
    centre_px = np.arange(pixels.start, pixels.stop) + 0.5
    cell = np.clip((centre_px - start_px) * cells / length_px - 0.5, 0, cells - 1)
    return np.asarray(np.maximum(1 - np.abs(cell[:, None] - np.arange(cells)), 0), dtype=np.float32)


def _colour(
    canvas: UInt8[np.ndarray, "h w 3"],
    picture: UInt8[np.ndarray, "h w 3"],
    evidence: Float32[np.ndarray, "h w"],
    low: float,
    style: Style,
) -> None:
    """Draw the picture on the canvas, under the colours of its evidence.

    Evidence is in units of the scale's high end, and is overwritten; `low` is the scale's low end.
    """
    # In bytes, and in place: at the size of a picture, wide temporaries are what costs.
    np.clip(evidence, 0, 1, out=evidence)
    fade = cv2.convertScaleAbs(evidence, alpha=255 / _FADE)
    scale = 255 / (1 - low)
    levels = cv2.convertScaleAbs(np.clip(evidence, low, 1, out=evidence), alpha=scale, beta=-low * scale)
    opacity = cv2.convertScaleAbs(levels, alpha=style.alpha_max - style.alpha_min, beta=255 * style.alpha_min)
    weight = cv2.cvtColor(cv2.multiply(fade, opacity, scale=1 / 255), cv2.COLOR_GRAY2RGB)
    colours = cv2.applyColorMap(levels, _rgb_of_levels(style.colormap))
    cv2.multiply(colours, weight, dst=colours, scale=1 / 255)
    cv2.bitwise_not(weight, dst=weight)
    cv2.multiply(picture, weight, dst=weight, scale=1 / 255)
    cv2.add(colours, weight, dst=canvas)


@functools.cache
def _rgb_of_levels(colormap: str) -> UInt8[np.ndarray, "256 1 3"]:
    """The colour map as a table, which takes OpenCV longer to make than to apply."""
    bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], COLORMAPS[colormap])
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _not_seen(picture: UInt8[np.ndarray, "h w 3"], rows: slice, columns: slice) -> UInt8[np.ndarray, "h w 3"]:
    """The picture drawn as not seen, with a line around the region seen, which the caller fills."""
    canvas = np.empty(picture.shape, np.uint8)
    for band in (np.s_[: rows.start], np.s_[rows.stop :], np.s_[rows, : columns.start], np.s_[rows, columns.stop :]):
        if canvas[band].size:
            grey = cv2.cvtColor(picture[band], cv2.COLOR_RGB2GRAY)
            cv2.cvtColor(cv2.convertScaleAbs(grey, alpha=_NOT_SEEN_BRIGHTNESS), cv2.COLOR_GRAY2RGB, dst=canvas[band])
    line_px = 1 + max(picture.shape[:2]) // 500
    canvas[
        max(rows.start - line_px, 0) : rows.stop + line_px, max(columns.start - line_px, 0) : columns.stop + line_px
    ] = 255
    return canvas


def _stamp_no_evidence(canvas: UInt8[np.ndarray, "h w 3"]) -> None:
    """White on a black band at the bottom, broken into the lines that give the largest letters up to a pleasant size.

    A picture too small for legible letters is left as it is, rather than covered.
    """
    height, width = canvas.shape[:2]

    def fitting_scale(lines: tuple[str, ...]) -> float:
        widest = max(cv2.getTextSize(line, _FONT, 1, 1)[0][0] for line in lines)
        return float(min(0.9 * width / widest, 0.5 * height / (_LINE_PX * len(lines)), 0.5 + max(height, width) / 1500))

    lines = max(_NO_EVIDENCE_LINES, key=fitting_scale)
    scale = fitting_scale(lines)
    if scale < _LEGIBLE_SCALE:
        return
    line_px = math.ceil(_LINE_PX * scale)
    canvas[height - line_px * len(lines) :] = 0
    for index, line in enumerate(lines):
        (line_width, _), _ = cv2.getTextSize(line, _FONT, scale, 1)
        origin = ((width - line_width) // 2, height - line_px * (len(lines) - 1 - index) - line_px // 3)
        cv2.putText(canvas, line, origin, _FONT, scale, (255, 255, 255), max(1, round(2 * scale)), cv2.LINE_AA)
