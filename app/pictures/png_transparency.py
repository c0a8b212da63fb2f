"""Reads which colour of a PNG picture is transparent, in the depth of the file's own samples.

Pillow gives this colour as the file holds it, although it scales the samples of greyscale to 8 bits and keeps the high
bytes of 16-bit colours. Source: PNG specification (third edition), sections 11.3.1.1 and 13.12.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image

from app.pictures.bands import bands
from app.shapes import UInt8

_SAMPLES = {0: 1, 2: 3}  # of a pixel, by the colour types that may have a transparent colour: grey and RGB


@dataclass(frozen=True)
class TransparentColour:
    """The one colour that is transparent: its samples, one of grey or three of RGB, each of `depth` bits."""

    samples: tuple[int, ...]
    depth: int

    @property
    def of_eight_bits(self) -> int | tuple[int, ...]:
        """The colour in Pillow's form, where samples of fewer than 8 bits are scaled to 255."""
        scaled = tuple(sample * 255 // (2**self.depth - 1) for sample in self.samples)
        return scaled if len(scaled) > 1 else scaled[0]


def read_transparent_colour(png: bytes) -> TransparentColour | None:
    """The transparent colour of a PNG file of greyscale or RGB, or None if it has none.

    Like all chunks about colour it stands before the pixels. Only the low bits of each sample count.
    """
    header = png[16:29]
    (depth, colour_type), position = struct.unpack_from("BB", header, 8), 8
    while colour_type in _SAMPLES and position + 8 <= len(png):
        (length,) = struct.unpack_from(">I", png, position)
        kind = png[position + 4 : position + 8]
        if kind == b"tRNS":
            samples = struct.unpack_from(f">{_SAMPLES[colour_type]}H", png, position + 8)
            return TransparentColour(tuple(sample & (2**depth - 1) for sample in samples), depth)
        if kind in (b"IDAT", b"IEND"):
            break
        position += 12 + length
    return None


def deep_rgb_alpha(high: Image.Image, low: Image.Image, colour: TransparentColour) -> UInt8[np.ndarray, "h w"]:
    """0 where an RGB picture of 16 bits has the transparent colour, else 255.

    `high` and `low` hold the high and the low bytes of its samples.
    """
    alpha = np.empty((high.height, high.width), np.uint8)
    high_bytes, low_bytes = ([sample >> shift & 255 for sample in colour.samples] for shift in (8, 0))
    for top, bottom in bands(*high.size):
        box = (0, top, high.width, bottom)
        is_colour = (np.asarray(high.crop(box)) == high_bytes).all(axis=-1)
        if is_colour.any():
            is_colour &= (np.asarray(low.crop(box)) == low_bytes).all(axis=-1)
        np.multiply(~is_colour, 255, out=alpha[top:bottom], dtype=np.uint8)
    return alpha
