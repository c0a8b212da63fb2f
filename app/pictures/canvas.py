"""The part of its canvas that the first frame of a GIF or a WebP covers: the rest is transparent, as browsers show it.

Pillow fills the rest with the first colour of a GIF's palette, and with black in a WebP that declares no transparency.
Sources: GIF89a, section 20; RFC 9649, section 2.7.1.1; what browsers do.
"""

from __future__ import annotations

import struct

from PIL import Image

Box = tuple[int, int, int, int]  # left, top, right and bottom in px
_MAX_CHUNKS = 100  # that are looked at for a WebP's first frame: it stands behind two or three others


def covered_box(image: Image.Image, data: bytes) -> Box | None:
    """What the first frame covers of its canvas, or None if it covers all of it.

    Call it before the picture is loaded. `data` is the file.
    """
    box = None
    if image.format == "GIF":
        tiles = getattr(image, "tile", ())
        box = tuple(tiles[0][1]) if tiles else None
    elif image.format == "WEBP":
        box = _webp_box(data)
    return None if box is None or box == (0, 0, *image.size) else box


def clear_outside(image: Image.Image, box: Box | None) -> Image.Image:
    """The image of mode L, LA, RGB or RGBA, transparent outside of the box."""
    if box is None:
        return image
    cleared = image.convert("LA" if image.mode in ("L", "LA") else "RGBA")
    alpha = Image.new("L", image.size, 0)
    alpha.paste(cleared.getchannel("A").crop(box), box[:2])
    cleared.putalpha(alpha)
    return cleared


def _webp_box(webp: bytes) -> Box | None:
    """The box of the first frame of an animation, or None for a picture that is none or is damaged."""
    position = 12
    for _ in range(_MAX_CHUNKS if webp[12:16] == b"VP8X" else 0):
        kind, head = webp[position : position + 4], webp[position + 8 : position + 20]
        if len(head) < 12:
            return None
        if kind == b"ANMF":
            left, top, width, height = (int.from_bytes(head[start : start + 3], "little") for start in (0, 3, 6, 9))
            return (2 * left, 2 * top, 2 * left + width + 1, 2 * top + height + 1)
        (length,) = struct.unpack_from("<I", webp, position + 4)
        position += 8 + length + length % 2
    return None
