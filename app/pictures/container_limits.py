"""Files of very many small parts: counted in their structure, before Pillow would read every one of them."""

from __future__ import annotations

import struct

from app.errors import PictureTooLarge

MOST_ENTRIES = 5_000  # of a TIFF or EXIF directory: cameras and editors write fewer than a hundred
MOST_STRIPS = 20_000  # more than a picture of the largest side has rows
MOST_CHUNKS = 20_000  # of a PNG: 20 MB in the usual pieces are 2,500
MOST_TEXTS = 32  # of a PNG, compressed, each up to a megabyte
_TEXTS = {b"zTXt", b"iTXt"}
_OFFSETS = {273, 324}  # tags of TIFF: where strips and tiles stand
_MOST_DIRECTORIES = 100_000
BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # by how a TIFF file or an EXIF block starts


def check_parts(data: bytes, format_name: str) -> None:
    """Raises PictureTooLarge for a PNG or TIFF of more parts than any program writes."""
    count = {"PNG": _is_crowded_png, "TIFF": is_crowded_tiff}.get(format_name)
    if count is not None and count(data):
        raise PictureTooLarge(
            f"The {format_name} picture is made of more parts than it needs: save it anew, without metadata."
        )


def _is_crowded_png(data: bytes) -> bool:
    place, chunks, texts = 8, 0, 0
    while place + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind = data[place + 4 : place + 8]
        if kind == b"IEND":  # what comes behind it is no part of the picture
            return False
        chunks += 1
        texts += kind in _TEXTS
        if chunks > MOST_CHUNKS or texts > MOST_TEXTS:
            return True
        place += 12 + length
    return False


def is_crowded_tiff(block: bytes) -> bool:
    """Whether a TIFF file or an EXIF block has more entries or strips than are read."""
    order = BYTE_ORDERS.get(block[:4])
    if order is None or len(block) < 8:
        return False
    offset, number = struct.Struct(f"{order}L"), struct.Struct(f"{order}H")
    (place,) = offset.unpack_from(block, 4)
    first, last = place, len(block) - 4
    for _ in range(_MOST_DIRECTORIES):
        if not 0 < place <= last:
            return False
        (entries,) = number.unpack_from(block, place)
        # Pillow reads every directory, but the strips of the first alone.
        there = min(entries, (last - place) // 12)  # a damaged directory may say any number
        if there > MOST_ENTRIES or (place == first and _has_many_strips(block, order, place + 2, entries)):
            return True
        if not entries or (end := place + 2 + 12 * entries) > last:
            return False
        (following,) = offset.unpack_from(block, end)
        if following <= place:  # the end, or back: Pillow ends a circle itself
            return False
        place = following
    return True


def _has_many_strips(block: bytes, order: str, place: int, entries: int) -> bool:
    for start in range(place, min(place + 12 * entries, len(block) - 11), 12):
        tag, _, count = struct.unpack_from(f"{order}HHL", block, start)
        if tag in _OFFSETS and count > MOST_STRIPS:
            return True
    return False
