"""Scales greyscale pictures of 12 or 16 bits to 8 bits, and any greyscale picture by a rule that a bundle declares."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

# How grey values become 0 to 255: from the format's own range (None), from the smallest and largest value of each
# picture, or from a declared range of values.
Stretch = Literal["found"] | tuple[int, int] | None
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags
_USUAL_BITS = (10, 12, 14)  # of sensors and scanners whose values are stored in 16 bits
_GREY_MODES = ("1", "L")


def is_deep_grey(image: Image.Image) -> bool:
    """Whether a picture is greyscale with more than 8 bits."""
    return image.mode.startswith("I;16")


def keeps_high_byte_only(image: Image.Image) -> bool:
    """Whether Pillow will drop the low byte of each value. Call it before the picture is loaded."""
    tiles = getattr(image, "tile", ())
    return not is_deep_grey(image) and any(";16" in str(tile[3]) for tile in tiles)


def deep_to_grey(image: Image.Image, stretch: Stretch) -> tuple[Image.Image, str | None]:
    """Scale greyscale of 12 or 16 bits to 8 bits: an image of mode L, and what the sender should know about it.

    Pillow's own conversion clips, and ignores that 0 may mean white.
    """
    tags = getattr(image, "tag_v2", {})
    white = int(2 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1)
    values = np.asarray(image)
    note = None
    if stretch is None:
        low, high, note = 0, white, _narrow_note(int(values.max()), white)
    else:
        low, high = _range(values, stretch)
    grey = _scaled(values, low, high)
    return Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey), note


def stretch_grey(image: Image.Image, stretch: Stretch) -> tuple[Image.Image, str | None]:
    """Apply the rule to greyscale of 8 bits. A declared range of more than 8 bits cannot apply to it."""
    if stretch is None or image.mode not in _GREY_MODES:
        return image, None
    image = image.convert("L")
    if stretch != "found" and stretch[1] > 255:
        note = f"The model reads grey values from {stretch[0]:,} to {stretch[1]:,}; this picture has 8 bits and was "
        return image, note + "used as it is."
    values = np.asarray(image)
    return Image.fromarray(_scaled(values, *_range(values, stretch))), None


def narrow_colour_note(image: Image.Image) -> str:
    """What the sender of 16-bit colour should know, of which the high bytes are in `image`."""
    highest = max(high for _, high in _extrema(image))
    note = "Only the high byte of the picture's 16-bit colours was used."
    return f"{note} They are small, so the picture is nearly black: scale its values up." if highest < 64 else note


def _narrow_note(highest: int, white: int) -> str | None:
    """A sentence about values that use a small part of their range, as of a sensor of 12 bits stored in 16."""
    bits = next((bits for bits in _USUAL_BITS if highest < 2**bits), None)
    if bits is None or white < 2**16 - 1 or not highest:
        return None
    return (
        f"The picture's 16-bit values use {bits} bits only, so it is nearly black: scale the values up, or use a model "
        "that was trained with `stretch`."
    )


def _range(values: np.ndarray, stretch: Stretch) -> tuple[int, int]:
    if stretch == "found":
        return int(values.min()), int(values.max())
    assert stretch is not None
    return stretch


def _scaled(values: np.ndarray, low: int, high: int) -> np.ndarray:
    """Values from `low` to `high` as 0 to 255, rounded; what lies outside is clipped."""
    span = max(1, high - low)
    above = np.clip(values, low, max(low, high)).astype(np.uint32) - np.uint32(low)
    return np.asarray((above * 255 + span // 2) // span, np.uint8)


def _extrema(image: Image.Image) -> list[tuple[int, int]]:
    extrema = image.getextrema()
    return list(extrema) if isinstance(extrema[0], tuple) else [extrema]  # type: ignore[list-item]
