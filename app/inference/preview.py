"""The small picture that is kept of an upload, for overlays to be drawn on."""

from __future__ import annotations

import math

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from app.inference.preprocess import Picture

# A much larger picture is first shrunk by a whole factor, to no less than this many times the preview.
_SPARE = 1.5


def preview(picture: Picture, longest_side_px: int) -> UInt8[np.ndarray, "h w 3"]:
    """The whole upright picture, shrunk to a longest side where it is larger.

    The filter is the antialiased cubic of `prepare`, applied at whole pixels and interpolated between them by
    OpenCV's own cubic: some three times as fast as Pillow's, and nearer to it than another usual filter.
    """
    full = picture.width_px, picture.height_px
    scale = min(longest_side_px / max(full), 1 / picture.reduced_by)
    width, height = (max(1, round(side * scale)) for side in full)
    if picture.image.size == (width, height) and not any(picture.overhang):
        return np.asarray(picture.image)
    factor = max(1, int(1 / scale / picture.reduced_by / _SPARE))
    pixels = np.asarray(picture.image.reduce(factor) if factor > 1 else picture.image)
    px_per_pixel = picture.reduced_by * factor
    steps = full[0] / px_per_pixel / width, full[1] / px_per_pixel / height
    left, top = picture.overhang[0] / factor, picture.overhang[1] / factor
    smooth = cv2.sepFilter2D(pixels, -1, _cubic(left, steps[0]), _cubic(top, steps[1]), borderType=cv2.BORDER_REPLICATE)
    # Scaled by factors and cut: told a size, OpenCV would stretch the overhang into the preview too.
    resized = cv2.resize(smooth, None, fx=1 / steps[0], fy=1 / steps[1], interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(resized[:height, :width])


def _cubic(shift: float, step: float) -> Float32[np.ndarray, " taps"]:
    """The cubic of Keys (1981), a = -1/2, `step` pixels wide, for pixels around a point `shift` behind the middle."""
    width = max(step, 1.0)  # less only where a very narrow picture keeps its last pixel
    reach = math.ceil(2 * width + shift) - 1
    x = np.abs(np.arange(-reach, reach + 1) - shift) / width
    weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))
    return np.asarray(weights / weights.sum(), np.float32)
