"""Whether a JPEG holds other pictures behind its first one, as stereo cameras and panoramas write them.

Source: CIPA DC-007, section 5.2.
"""

from __future__ import annotations

import struct

from PIL import Image

from app.pictures.container_limits import BYTE_ORDERS
from app.pictures.tiff_directory import value_place

_ENTRIES, _ENTRY_BYTES = 0xB002, 16  # a tag, and the size of its entry for each picture
_MAX_PICTURES = 100  # that are looked at
_THUMBNAIL_CLASS = 1  # of a picture's type: a larger preview of the first one
_GAIN_MAP = b"hdrgm:Version"  # in the XMP data of a JPEG whose second picture makes the first one brighter


def holds_other_pictures(image: Image.Image) -> bool:
    """Whether a JPEG, of which the header has been read, lists pictures that are no preview or gain map of its first.

    What is damaged lists none: the first picture does not depend on it.
    """
    block, xmp = image.info.get("mp", b""), image.info.get("xmp", b"")
    order = BYTE_ORDERS.get(block[:4])
    if order is None or (isinstance(xmp, bytes) and _GAIN_MAP in xmp):
        return False
    try:
        place = value_place(block, order, 4, _ENTRIES)
        if place is None:
            return False
        size, start = struct.unpack_from(f"{order}LL", block, place - 4)
    except struct.error:
        return False
    behind_first = range(start + _ENTRY_BYTES, min(start + size, len(block) - 3), _ENTRY_BYTES)[:_MAX_PICTURES]
    types = (struct.unpack_from(f"{order}L", block, entry)[0] & 0xFFFFFF for entry in behind_first)
    return any(kind >> 16 != _THUMBNAIL_CLASS for kind in types)
