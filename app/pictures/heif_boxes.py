"""Reads from the boxes of an AVIF file what its decoder does not tell: the colour space that its picture declares.

Source: ISO/IEC 23008-12, sections 6.5.5 and 9.3, and ISO/IEC 14496-12, sections 4.2 and 12.1.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_MAX_BOXES, _MAX_ITEMS = 500, 2_000  # that are looked at: a picture with alpha and a thumbnail has a dozen


def read_nclx(data: bytes) -> tuple[int, int] | None:
    """H.273's numbers for the primaries and the transfer curve of the main picture, or None if there are none.

    Of a damaged file, it is None, too: its decoder says that it is damaged.
    """
    try:
        meta = _first(data, b"meta")[4:]
        properties = _first(meta, b"iprp")
        version, item = _first(meta, b"pitm")[0], _first(meta, b"pitm")[4:]
        (main_item,) = struct.unpack_from(">H" if version == 0 else ">I", item)
        boxes = [*_boxes(_first(properties, b"ipco"))]
        for index in _property_indexes(_first(properties, b"ipma"), main_item):
            kind, body = boxes[index - 1] if index else (b"", b"")
            if kind == b"colr" and body[:4] == b"nclx":
                primaries, transfer = struct.unpack_from(">HH", body, 4)
                return primaries, transfer
    except (struct.error, LookupError):
        return None
    return None


def _first(data: bytes, wanted: bytes) -> bytes:
    """The body of the first box of a kind. Raises LookupError."""
    for kind, body in _boxes(data):
        if kind == wanted:
            return body
    raise LookupError(wanted)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kinds and bodies of the boxes in `data`, not of those inside of them. Raises struct.error."""
    position = 0
    for _ in range(_MAX_BOXES):
        if position + 8 > len(data):
            return
        size, kind = struct.unpack_from(">I4s", data, position)
        header = 8
        if size == 1:
            (size,), header = struct.unpack_from(">Q", data, position + 8), 16
        end = len(data) if size == 0 else position + size
        if end < position + header:
            return
        yield kind, data[position + header : end] if kind != b"mdat" else b""
        position = end


def _property_indexes(associations: bytes, item: int) -> list[int]:
    """The numbers, from 1, of an item's properties. Raises struct.error and LookupError."""
    version, flags, items = struct.unpack_from(">B3sI", associations)
    item_format, entry_format = ">H" if version == 0 else ">I", ">H" if flags[2] & 1 else ">B"
    position, is_wide = 8, bool(flags[2] & 1)
    for _ in range(min(items, _MAX_ITEMS)):
        (number,) = struct.unpack_from(item_format, associations, position)
        position += struct.calcsize(item_format)
        count, position = associations[position], position + 1
        if number == item:
            entries = struct.unpack_from(f">{count}{entry_format[1]}", associations, position)
            return [entry & (0x7FFF if is_wide else 0x7F) for entry in entries]
        position += count * struct.calcsize(entry_format)
    return []
