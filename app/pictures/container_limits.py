"""Files of very many small parts: counted in their structure, before Pillow would read every one of them."""

from __future__ import annotations

import struct

from app.errors import PictureTooLarge

MAX_ENTRIES = 5_000  # of a TIFF or EXIF directory: cameras and editors write fewer than a hundred
MAX_STRIPS = 20_000  # more than a picture of the largest side has rows
MAX_CHUNKS = 20_000  # of a PNG: 20 MB in the usual pieces are 2,500
MAX_TEXT_CHUNKS = 32  # of a PNG, compressed, each up to a megabyte
_TEXT_CHUNKS = {b"zTXt", b"iTXt"}
_OFFSET_TAGS = {273, 324}  # tags of TIFF: where strips and tiles stand
_MAX_DIRECTORIES = 100_000
BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # by how a TIFF file or an EXIF block starts


def check_container(data: bytes, format_name: str) -> None:
    """Raises PictureTooLarge for a PNG or TIFF of more parts than any program writes."""
    exceeds_limits = {"PNG": _png_exceeds_limits, "TIFF": tiff_exceeds_limits}.get(format_name)
    if exceeds_limits is not None and exceeds_limits(data):
        raise PictureTooLarge(
            f"The {format_name} picture is made of more parts than it needs: save it anew, without metadata."
        )


def _png_exceeds_limits(data: bytes) -> bool:
    position, chunks, text_chunks = 8, 0, 0
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        if kind == b"IEND":  # what comes behind it is no part of the picture
            return False
        chunks += 1
        text_chunks += kind in _TEXT_CHUNKS
        if chunks > MAX_CHUNKS or text_chunks > MAX_TEXT_CHUNKS:
            return True
        position += 12 + length
    return False


def tiff_exceeds_limits(block: bytes) -> bool:
    """Whether a TIFF file or an EXIF block has more entries or strips than are read."""
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
        # Pillow reads every directory, but the strips of the first alone.
        readable_entries = min(entries, (last - position) // 12)  # a damaged directory may say any number
        if readable_entries > MAX_ENTRIES or (
            position == first and _has_many_strips(block, order, position + 2, entries)
        ):
            return True
        if not entries or (end := position + 2 + 12 * entries) > last:
            return False
        (next_position,) = uint32.unpack_from(block, end)
        if next_position <= position:  # the end, or back: Pillow ends a circle itself
            return False
        position = next_position
    return True


def _has_many_strips(block: bytes, order: str, position: int, entries: int) -> bool:
    for start in range(position, min(position + 12 * entries, len(block) - 11), 12):
        tag, _, count = struct.unpack_from(f"{order}HHL", block, start)
        if tag in _OFFSET_TAGS and count > MAX_STRIPS:
            return True
    return False
