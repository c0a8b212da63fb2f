"""Rejects PNG and TIFF files with absurd chunk or entry counts before Pillow parses them.

Pillow reads every part of such a file, which can take minutes for a small upload. The counts are read from the
structure of the file alone. Sources: PNG specification (third edition), section 5; TIFF 6.0, section 2.
"""

from __future__ import annotations

import struct

from app.errors import PictureTooLarge

MAX_ENTRIES = 5_000  # in one TIFF or EXIF directory: cameras and editors write fewer than a hundred
MAX_STRIPS = 20_000  # in a TIFF: more than the largest allowed picture has rows
MAX_CHUNKS = 20_000  # in a PNG: a file of 20 MB with chunks of the usual size has 2,500
MAX_TEXT_CHUNKS = 32  # compressed text chunks in a PNG, each of up to a megabyte
_TEXT_CHUNKS = {b"zTXt", b"iTXt"}
_OFFSET_TAGS = {273, 324}  # TIFF tags that hold the offsets of strips and of tiles
_MAX_DIRECTORIES = 100_000
BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # byte order by the first bytes of a TIFF file or an EXIF block


def check_container(data: bytes, format_name: str) -> None:
    """Raises PictureTooLarge for a PNG or TIFF file with more parts than any ordinary program writes.

    Other formats pass: `format_name` is one of `app.pictures.decode.SIGNATURES`.
    """
    exceeds_limits = {"PNG": _png_exceeds_limits, "TIFF": tiff_exceeds_limits}.get(format_name)
    if exceeds_limits is not None and exceeds_limits(data):
        raise PictureTooLarge(
            f"The {format_name} file has too many chunks or entries: save the picture again without metadata."
        )


def _png_exceeds_limits(data: bytes) -> bool:
    position, chunks, text_chunks = 8, 0, 0
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        if kind == b"IEND":  # what follows is not part of the picture
            return False
        chunks += 1
        text_chunks += kind in _TEXT_CHUNKS
        if chunks > MAX_CHUNKS or text_chunks > MAX_TEXT_CHUNKS:
            return True
        position += 12 + length
    return False


def tiff_exceeds_limits(block: bytes) -> bool:
    """Whether a TIFF file or an EXIF block has more directory entries, strips or directories than the limits allow."""
    order = BYTE_ORDERS.get(block[:4])
    if order is None or len(block) < 8:
        return False
    uint32, uint16 = struct.Struct(f"{order}L"), struct.Struct(f"{order}H")
    (position,) = uint32.unpack_from(block, 4)
    first, last = position, len(block) - 4
    for _ in range(_MAX_DIRECTORIES):
        if not 0 < position <= last:
            return False
        (entries,) = uint16.unpack_from(block, position)
        # Pillow reads every directory, but only the strips of the first one.
        readable_entries = min(entries, (last - position) // 12)  # a damaged directory may declare any number
        if readable_entries > MAX_ENTRIES or (
            position == first and _has_many_strips(block, order, position + 2, entries)
        ):
            return True
        if not entries or (end := position + 2 + 12 * entries) > last:
            return False
        (next_position,) = uint32.unpack_from(block, end)
        if next_position <= position:  # 0 marks the end; Pillow itself stops at a jump backwards
            return False
        position = next_position
    return True


def _has_many_strips(block: bytes, order: str, position: int, entries: int) -> bool:
    for start in range(position, min(position + 12 * entries, len(block) - 11), 12):
        tag, _, count = struct.unpack_from(f"{order}HHL", block, start)
        if tag in _OFFSET_TAGS and count > MAX_STRIPS:
            return True
    return False
