"""Scales deep greyscale to 8 bits, and any greyscale by a rule that a bundle declares.

A picture is grey if it looks grey, however it is stored: as greyscale with or without alpha, as a palette, or as RGB.
CMYK is taken as colour.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image, ImageChops

from app.pictures.bands import bands
from app.pictures.samples import DeepGrey
from app.shapes import UInt8

# How grey values become 0 to 255: from the format's own range (None), from the smallest and largest value of each
# picture, or from a declared range of values.
Stretch = Literal["found"] | tuple[int, int] | None
_USUAL_BITS = (10, 12, 14)  # of sensors and scanners whose values are stored in 16 bits
_GREY_TOLERANCE = 1  # in levels of 255 between the channels of a grey: decoders of lossy WebP differ by as much
# The shares of pixels that may lie outside of a range that is called narrow: saturated ones, as of letters that are
# burned in, and others, as of a sensor's defects. One other may in any picture of some size. Honest pictures of a wide
# range have more of the others.
_MAX_SATURATED_SHARE, _MAX_OUTLIER_SHARE, _PX_FOR_ONE_OUTLIER = 0.05, 0.001, 256


def deep_to_grey(grey: DeepGrey, stretch: Stretch) -> tuple[Image.Image, tuple[str, ...]]:
    """Scale deep greyscale to 8 bits: an image of mode L or LA, and what the sender should know about it.

    A declared range is one of the stored values, also where 0 means white.
    """
    note = None
    if stretch is None:
        low, high, note = 0, grey.white, _narrow_note(grey)
    elif stretch == "found":
        low, high = int(grey.visible.min()), int(grey.visible.max())
    else:
        low, high = stretch
    levels = _scaled(np.arange(2**16), low, high)
    if grey.white_is_zero:
        levels = 255 - levels
    height, width = grey.values.shape
    scaled = np.empty((height, width), np.uint8)
    for top, bottom in bands(width, height):
        scaled[top:bottom] = levels[grey.values[top:bottom]]
    image = Image.fromarray(scaled)
    if grey.alpha is not None:
        image = Image.merge("LA", (image, Image.fromarray(grey.alpha)))
    return image, (note,) if note else ()


def stretch_grey(image: Image.Image, stretch: Stretch, white: int = 255) -> tuple[Image.Image, tuple[str, ...]]:
    """Apply the rule to a picture of 8 bits a channel if it is grey. Returns it with what the sender should know.

    `image` has the mode L, LA, RGB, RGBA or CMYK. `white` is the value of the file's format that became 255: 65,535
    where only the high bytes were read. A declared range of more than 8 bits cannot apply to a file of 8 bits.
    """
    if stretch is None or not _is_grey(image):
        return image, (_narrow_colour_note(image),) if white > 255 else ()
    if white == 255 and stretch != "found" and stretch[1] > 255:
        note = f"The model reads grey values from {stretch[0]:,} to {stretch[1]:,}; this picture is read in 8 bits "
        return image, (note + "and was used as it is.",)
    grey = image.convert("LA" if "A" in image.getbands() else "L")
    values = np.arange(256) * (white // 255)
    low, high = stretch if stretch != "found" else (int(values[value]) for value in _visible_range(grey))
    levels = _scaled(values, low, high).tolist()
    stretched = grey.point(levels + list(range(256)) if grey.mode == "LA" else levels)
    if image.info.get("icc_profile") and image.mode in ("RGB", "RGBA"):
        stretched = stretched.convert(image.mode)  # as the profile needs it
    return stretched, () if white == 255 else (_coarse_note(low, high),)


def _is_grey(image: Image.Image) -> bool:
    """Whether all that is visible of a picture is grey."""
    if image.mode not in ("RGB", "RGBA"):
        return image.mode in ("L", "LA")
    return all(_is_grey_band(image.crop((0, top, image.width, bottom))) for top, bottom in bands(*image.size))


def _is_grey_band(band: Image.Image) -> bool:
    red, green, blue = band.split()[:3]
    differences = [ImageChops.difference(*pair) for pair in ((red, green), (green, blue), (red, blue))]
    largest = ImageChops.lighter(ImageChops.lighter(*differences[:2]), differences[2])
    visible = band.getchannel("A") if band.mode == "RGBA" else None
    return not any(largest.histogram(visible)[_GREY_TOLERANCE + 1 :])


def _visible_range(grey: Image.Image) -> tuple[int, int]:
    """The smallest and the largest value of an image of mode L or LA, without what is fully transparent."""
    visible = grey.getchannel("A") if grey.mode == "LA" else None
    used = [value for value, count in enumerate(grey.getchannel("L").histogram(visible)) if count]
    return (used[0], used[-1]) if used else (0, 255)


def _coarse_note(low: int, high: int) -> str:
    levels = max(1, (high - low) // 257 + 1)
    return (
        "Only the high byte of the picture's 16-bit colours was used, of which the grey values that the model reads "
        f"({low:,} to {high:,}) have at most {levels}: save the picture as 16-bit greyscale."
    )


def _narrow_colour_note(image: Image.Image) -> str:
    """What the sender of 16-bit colour should know, of which the high bytes are in `image`."""
    counts = np.array(image.histogram()).reshape(-1, 256)
    counts = counts[:3].sum(axis=0) if image.mode == "RGBA" else counts.sum(axis=0)
    note = "Only the high byte of the picture's 16-bit colours was used."
    if not _is_narrow(int(counts.sum()), int(counts[64:].sum()), int(counts[255])):
        return note
    look = "white" if image.mode == "CMYK" else "black"
    return f"{note} They are small, so the picture is nearly {look}: scale its values up."


def _narrow_note(grey: DeepGrey) -> str | None:
    """A sentence about values that use a small part of their range, as of a sensor of 12 bits stored in 16.

    Values count as being of, say, 12 bits if not more than 1 of 1,000 pixels is above that. Pixels of the largest value
    that there is do not count if they are not more than 1 of 20. See `_is_narrow`. Where 0 means white, small values
    are nearly white, and values that count down from the largest are looked at in the same way.
    """
    if grey.white < 2**16 - 1:
        return None
    bits = _used_bits(grey.visible)
    if bits is not None:
        return _narrow_sentence(bits, "white" if grey.white_is_zero else "black")
    if grey.white_is_zero and (bits := _used_bits(~grey.visible)) is not None:
        return _narrow_sentence(bits, "black")
    return None


def _narrow_sentence(bits: int, look: str) -> str:
    return (
        f"Nearly all of the picture's 16-bit values use {bits} bits only, so it is nearly {look}: scale the values "
        "up, or use a model that was trained with `stretch`."
    )


def _used_bits(values: np.ndarray) -> int | None:
    """The usual number of bits that nearly all of the 16-bit values use, or None if they use more or are 0."""
    saturated = int(np.count_nonzero(values == 2**16 - 1))
    for bits in _USUAL_BITS:
        above = int(np.count_nonzero(values >= 2**bits))
        if _is_narrow(values.size, above, saturated):
            return bits if np.count_nonzero(values) > above else None
    return None


def _is_narrow(pixels: int, above: int, saturated: int) -> bool:
    """Whether the pixels above a bound are few enough, or saturated, so that the picture's own values are below it."""
    if saturated <= pixels * _MAX_SATURATED_SHARE:
        above -= saturated
    return above <= max(pixels * _MAX_OUTLIER_SHARE, int(pixels >= _PX_FOR_ONE_OUTLIER))


def _scaled(values: np.ndarray, low: int, high: int) -> UInt8[np.ndarray, " n"]:
    """Values from `low` to `high` as 0 to 255, rounded; what lies outside is clipped."""
    span = max(1, high - low)
    above = np.clip(values, low, max(low, high)).astype(np.int64) - low
    return np.asarray((above * 255 + span // 2) // span, np.uint8)
