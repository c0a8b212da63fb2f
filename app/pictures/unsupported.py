"""Tells pictures whose layout is not supported from damaged ones."""

from __future__ import annotations

import struct

from app.errors import UnreadablePicture
from app.pictures.tiff_layout import read_layout

_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG markers of a frame's header
_HIERARCHICAL = {0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF}
_BMP_BITS = {1, 4, 8, 16, 24, 32}


def refuse_unsupported(data: bytes, format_name: str) -> None:
    """Raises UnreadablePicture for a TIFF that would be misread, with what its layout is and what to do about it."""
    layout = read_layout(data) if format_name == "TIFF" else None
    if layout is not None and layout.problem is not None:
        raise UnreadablePicture(layout.problem)


def reason_of_failure(data: bytes, format_name: str, is_open: bool) -> str:
    """A sentence about a file that cannot be decoded. `is_open` tells whether its header was read.

    It says "damaged" only if no part of the header is something that is not supported.
    """
    reason = None
    if format_name == "TIFF" and (layout := read_layout(data)) is not None:
        if not is_open:
            reason = layout.problem or layout.unread
        elif name := layout.unusual_compression:
            reason = (
                f"The TIFF picture cannot be decoded: it is damaged, or its compression, {name}, is not supported. "
                "Save it without compression, or with LZW or Deflate."
            )
    elif format_name == "JPEG":
        reason = _unsupported_jpeg(data)
    elif format_name == "BMP":
        reason = _unsupported_bmp(data)
    elif data[12:16] == b"CgBI":
        reason = "A PNG in the form that Apple's tools make for iPhones is not supported: save it as an ordinary PNG."
    return reason or f"The {format_name} picture is damaged or cut off and cannot be decoded: send the whole file."


def _unsupported_jpeg(data: bytes) -> str | None:
    """A sentence about a JPEG's first frame if no decoder here reads it."""
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker, (length,) = data[position + 1], struct.unpack_from(">H", data, position + 2)
        if marker in _FRAMES:
            bits, channels = data[position + 4], data[position + 9]
            if bits == 8 and channels in (1, 3, 4) and marker not in _HIERARCHICAL:
                return None
            form = "in hierarchical form" if marker in _HIERARCHICAL else f"of {bits} bits and {channels} channels"
            return f"A JPEG {form} is not supported: save it as an ordinary JPEG of 8 bits, or as PNG."
        position += 1 if marker == 0xFF else 2 + length
    return None


def _unsupported_bmp(data: bytes) -> str | None:
    """A sentence about a BMP's header if Pillow does not read what it declares."""
    if len(data) < 34 or data[14] < 40:
        return None
    bits, compression = struct.unpack_from("<HL", data, 28)
    if bits in _BMP_BITS and compression not in (4, 5):
        return None
    what = f"with {bits} bits a pixel" if compression not in (4, 5) else "that holds a JPEG or a PNG"
    return f"A BMP {what} is not supported: save it as an ordinary BMP of 24 bits, or as PNG."
