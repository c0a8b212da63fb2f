"""Rejects JPEG, PNG and TIFF files with absurd scan, segment, chunk or entry counts before Pillow parses them.

Pillow reads every part of such a file, which can take minutes for a small upload. The counts are read from the
structure of the file alone. Sources: ITU-T T.81, annex B; PNG specification (third edition), section 5; TIFF 6.0,
section 2.
"""

from __future__ import annotations

import struct

from app.errors import PictureTooLarge

MAX_ENTRIES = 5_000  # in one TIFF or EXIF directory: cameras and editors write fewer than a hundred
MAX_STRIPS = 20_000  # in a TIFF: more than the largest allowed picture has rows
MAX_CHUNKS = 20_000  # in a PNG: a file of 20 MB with chunks of the usual size has 2,500
MAX_SCANS = 32  # in a JPEG: encoders write at most about a dozen, and each scan is a pass over the whole picture
MAX_SEGMENTS = 2_000  # in a JPEG: of profiles, which are split into segments, a few hundred
MAX_EXIF_SEGMENTS = 16  # in a JPEG: cameras write one; Pillow joins them in quadratic time
MAX_TEXT_CHUNKS = 32  # compressed text chunks in a PNG, each of up to a megabyte
_TEXT_CHUNKS = {b"zTXt", b"iTXt"}
_OFFSET_TAGS = {273, 324}  # TIFF tags that hold the offsets of strips and of tiles
_MAX_DIRECTORIES = 100_000
_START_OF_SCAN, _END_OF_IMAGE, _APP1 = 0xDA, 0xD9, 0xE1  # JPEG markers
_WITHOUT_LENGTH = {0x00, 0x01, 0xD8, *range(0xD0, 0xD8)}
BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # byte order by the first bytes of a TIFF file or an EXIF block


def check_container(data: bytes, format_name: str) -> None:
    """Raises PictureTooLarge for a JPEG, PNG or TIFF file with more parts than any ordinary program writes.

    Other formats pass: `format_name` is one of `app.pictures.formats`.
    """
    checks = {"JPEG": _jpeg_exceeds_limits, "PNG": _png_exceeds_limits, "TIFF": tiff_exceeds_limits}
    exceeds_limits = checks.get(format_name)
    if exceeds_limits is not None and exceeds_limits(data):
        raise PictureTooLarge(
            f"The {format_name} file has too many scans, segments, chunks or entries: save the picture again without "
            "metadata, a JPEG as baseline."
        )


def webp_size(data: bytes) -> tuple[int, int]:
    """The width and height that the first chunk of a WebP file declares, in px. Raises struct.error if it is cut off.

    Source: RFC 9649, sections 2.5 to 2.7.
    """
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X":
        width, height = (int.from_bytes(body[start : start + 3], "little") + 1 for start in (4, 7))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<xL", body)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<6xHH", body))
    return width, height


def _jpeg_exceeds_limits(data: bytes) -> bool:
    scans = segments = exif_segments = 0
    position = data.find(b"\xff", 2)
    while 0 <= position < len(data) - 3:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte before the marker
            position += 1
            continue
        if marker == _END_OF_IMAGE:  # what follows is not part of the picture
            return False
        if marker in _WITHOUT_LENGTH:  # a stuffed byte of the entropy-coded data, or a marker on its own
            position = data.find(b"\xff", position + 2)
            continue
        segments += 1
        scans += marker == _START_OF_SCAN
        exif_segments += marker == _APP1 and data[position + 4 : position + 8] == b"Exif"
        if scans > MAX_SCANS or segments > MAX_SEGMENTS or exif_segments > MAX_EXIF_SEGMENTS:
            return True
        (length,) = struct.unpack_from(">H", data, position + 2)
        # A segment is followed by a marker, a scan's header by entropy-coded data up to the next one.
        position = data.find(b"\xff", position + 2 + length)
    return False


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
