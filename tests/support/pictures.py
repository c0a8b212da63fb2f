"""Drawn pictures and their bytes in the formats that the service reads."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from app.shapes import Bool, Integer, UInt8

Rgb = UInt8[np.ndarray, "h w 3"]
Samples = Integer[np.ndarray, "h w n"]
ORIENTATION = 0x0112
# EXIF 2.32, 4.6.4: the side of the upright picture where a stored picture's first row lies, and its first column.
STORED_FROM = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def encoded(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """The bytes of a picture file."""
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def places(canvas: UInt8[np.ndarray, "h w 3"], part: UInt8[np.ndarray, "ph pw 3"]) -> list[tuple[int, int]]:
    """The upper left corners at which a part stands in a picture, pixel for pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(canvas, part.shape)[:, :, 0]
    same: Bool[np.ndarray, "h w"] = (windows[..., 0, 0, :] == part[0, 0]).all(axis=-1)
    return [(int(y), int(x)) for y, x in np.argwhere(same) if (windows[y, x] == part).all()]


def blocks() -> Rgb:
    """24 × 16 px in blocks of 8 px, each of its own colour, so that no turn or flip goes unseen and JPEG is exact."""
    colours = [[(200, 40, 40), (40, 180, 60), (40, 60, 200)], [(230, 230, 230), (20, 20, 20), (220, 200, 50)]]
    return np.array(colours, np.uint8).repeat(8, axis=0).repeat(8, axis=1)


def turned(upright: Rgb, orientation: int) -> Rgb:
    """How a camera that was held this way stores the picture."""
    row_side, column_side = STORED_FROM[orientation]
    stored = upright if row_side in ("top", "bottom") else upright.swapaxes(0, 1)
    return stored[:: -1 if row_side in ("bottom", "right") else 1, :: -1 if column_side in ("bottom", "right") else 1]


def exif(orientation: int) -> Image.Exif:
    """An EXIF block with an orientation, and other things that cameras tell."""
    block = Image.Exif()
    block[0x010F], block[ORIENTATION] = "a camera", orientation
    block.get_ifd(0x8825)[1] = "N"
    return block


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG file written by hand: `rows` each start with their filter byte, `chunks` stand before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def png_of(samples: Samples, depth: int, colour_type: int, *chunks: bytes) -> bytes:
    """A PNG file of any samples, each row unfiltered."""
    height, width, _ = samples.shape
    rows = packed_rows(samples.reshape(height, -1), depth, big_endian=True)
    return png(width, height, depth, colour_type, b"".join(b"\0" + row for row in rows), *chunks)


def packed_rows(values: Integer[np.ndarray, "h n"], bits: int, big_endian: bool) -> list[bytes]:
    """Rows of values of so many bits, each filled up to whole bytes. `big_endian` is the order of bytes in a value."""
    if bits % 8 == 0 and bits != 24:
        kind = f"{'>' if big_endian else '<'}u{bits // 8}"
        return [row.astype(kind).tobytes() for row in values]  # negative values in two's complement
    places = np.arange(bits - 1, -1, -1)
    return [np.packbits((row[:, None] >> places & 1).astype(np.uint8)).tobytes() for row in values]
