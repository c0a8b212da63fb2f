"""Finds a value in the directories of TIFF's kind, of which EXIF blocks and JPEGs of several pictures have some, too.

Source: TIFF 6.0, section 2.
"""

from __future__ import annotations

import struct

from app.pictures.container_limits import MAX_ENTRIES


def value_place(block: bytes, order: str, pointer: int, tag: int) -> int | None:
    """Where the four bytes of a tag's value, or of its offset, stand; None if the tag is not there.

    The directory's own offset stands at `pointer`; that of the first directory stands at 4. `order` is that of bytes in
    the struct module's notation. Raises struct.error for what lies outside of the block.
    """
    (start,) = struct.unpack_from(f"{order}L", block, pointer)
    (entries,) = struct.unpack_from(f"{order}H", block, start)
    for place in range(start + 2, min(start + 2 + 12 * min(entries, MAX_ENTRIES), len(block) - 11), 12):
        if struct.unpack_from(f"{order}H", block, place) == (tag,):
            return place + 8
    return None
