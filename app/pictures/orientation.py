"""Reads the EXIF orientation of a picture and turns the picture upright."""

from __future__ import annotations

import struct
import zlib

from PIL import Image

from app.pictures.container_limits import BYTE_ORDERS, tiff_exceeds_limits

# The exceptions of Pillow's loaders on damaged files. AssertionError is one of them, for a missing palette.
DECODE_ERRORS = (
    *(OSError, EOFError, SyntaxError, ValueError, struct.error, zlib.error, LookupError, TypeError),
    *(AssertionError, AttributeError, ArithmeticError),
)
Sides = tuple[float, float, float, float]  # a value for each side: left, top, right, bottom
_ORIENTATION = 0x0112
_EXIF_PREFIX = b"Exif\0\0"
_RAW_PROFILES = ("Raw profile type exif", "Raw profile type APP1")  # the second may hold XMP data instead
# For each orientation, how Pillow turns it upright, and which stored sides become left, top, right and bottom.
_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, (2, 1, 0, 3)),
    3: (Image.Transpose.ROTATE_180, (2, 3, 0, 1)),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, (0, 3, 2, 1)),
    5: (Image.Transpose.TRANSPOSE, (1, 0, 3, 2)),
    6: (Image.Transpose.ROTATE_270, (3, 0, 1, 2)),
    7: (Image.Transpose.TRANSVERSE, (3, 2, 1, 0)),
    8: (Image.Transpose.ROTATE_90, (1, 2, 3, 0)),
}


def read_orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, from 1 to 8. It is 1 without EXIF data, and None if the data is damaged or too large."""
    block = exif_block(image)
    if block is None or tiff_exceeds_limits(block):
        return None
    try:
        if block:
            image.info["exif"] = _EXIF_PREFIX + block
        value = image.getexif().get(_ORIENTATION)
    except DECODE_ERRORS:
        return None
    if value is None and _is_complete(block):
        return 1
    return value if value in range(1, 9) else None


def exif_block(image: Image.Image) -> bytes | None:
    """The EXIF data of a loaded picture, or empty bytes if it has none. It is None if the data is damaged."""
    block = image.info.get("exif")
    if block is None and image.format == "PNG":
        block = _in_text(image)
    if block is None:
        return b""
    # A text chunk of a PNG may be called exif.
    return block.removeprefix(_EXIF_PREFIX) if isinstance(block, bytes) else None


def _in_text(image: Image.Image) -> bytes | str | None:
    """EXIF data that ImageMagick wrote into a text chunk of a PNG: as digits in base 16, behind its name and size."""
    for key in _RAW_PROFILES:
        text = image.info.get(key)
        if not isinstance(text, str):
            continue
        try:
            block = bytes.fromhex("".join(text.split("\n", 3)[3:]))
        except ValueError:
            return text
        if block.startswith(_EXIF_PREFIX) or key == _RAW_PROFILES[0]:
            return block
    return None


def turn_upright(image: Image.Image, sides: Sides, stored: int | None) -> tuple[Image.Image, Sides]:
    """Turn an image that is stored in the orientation `stored` upright.

    Returns a new image, and the values of its sides in their new order.
    """
    if stored not in _TURNS:
        return image.copy(), sides
    turn, order = _TURNS[stored]
    left, top, right, bottom = (sides[side] for side in order)
    return image.transpose(turn), (left, top, right, bottom)


def _is_complete(block: bytes) -> bool:
    """Whether the first directory of an EXIF block, which holds the orientation, is complete.

    Pillow skips missing entries without an error.
    """
    if not block:
        return True
    try:
        order = BYTE_ORDERS[block[:4]]
        (start,) = struct.unpack_from(f"{order}L", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, start)
    except (KeyError, struct.error):
        return False
    return bool(start + 2 + 12 * entries <= len(block))
