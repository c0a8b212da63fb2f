"""TIFF files written by hand from any numbers of bits (TIFF 6.0, sections 2, 8 and 14)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support.pictures import Samples, packed_rows

DEFLATE = 8
_SHORT, _LONG = (3, "H"), (4, "L")
_LONG_TAGS = (256, 257, 273, 278, 279)  # sizes and offsets


@dataclass(frozen=True)
class Storage:
    """How a TIFF stores its samples, each of `bits`. `tags` are added, or left out where they are None."""

    photometric: int = 1
    bits: int = 8
    big_endian: bool = False
    sample_format: int = 1
    compression: int = 1
    planar: int = 1
    fill_order: int = 1
    extra: tuple[int, ...] = ()
    tags: tuple[tuple[int, int | tuple[int, ...] | None], ...] = ()


def tiff_file(samples: Samples, storage: Storage) -> bytes:
    """A TIFF with one strip for all samples or, where `planar` is 2, for each of the n of a pixel."""
    height, width, count = samples.shape
    planes = [samples.reshape(height, -1)] if storage.planar == 1 else [samples[..., place] for place in range(count)]
    strips = [_strip(plane, storage) for plane in planes]
    starts = np.cumsum([8, *(len(strip) for strip in strips)])[:-1].tolist()
    tags: dict[int, Any] = {256: width, 257: height, 258: (storage.bits,) * count, 259: storage.compression}
    tags |= {262: storage.photometric, 266: storage.fill_order, 273: tuple(starts), 277: count, 278: height}
    tags |= {279: tuple(len(strip) for strip in strips), 284: storage.planar, 339: (storage.sample_format,) * count}
    tags |= ({338: storage.extra} if storage.extra else {}) | dict(storage.tags)
    return _file(b"".join(strips), {tag: value for tag, value in tags.items() if value is not None}, storage.big_endian)


def _strip(plane: np.ndarray, storage: Storage) -> bytes:
    strip = b"".join(packed_rows(plane, storage.bits, storage.big_endian))
    if storage.compression == DEFLATE:
        strip = zlib.compress(strip)
    if storage.fill_order == 2:
        return np.packbits(np.unpackbits(np.frombuffer(strip, np.uint8)), bitorder="little").tobytes()
    return strip


def _file(pixels: bytes, tags: dict[int, Any], big_endian: bool) -> bytes:
    order, start = ">" if big_endian else "<", 8 + len(pixels)
    behind, entries, later = start + 2 + 12 * len(tags) + 4, b"", b""
    for tag, value in sorted(tags.items()):
        numbers = value if isinstance(value, tuple) else (value,)
        kind, letter = _LONG if tag in _LONG_TAGS else _SHORT
        content = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        entries += struct.pack(f"{order}HHL", tag, kind, len(numbers))
        if len(content) > 4:
            entries += struct.pack(f"{order}L", behind + len(later))
            later += content
        else:
            entries += content.ljust(4, b"\0")
    head = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(f"{order}L", start)
    return head + pixels + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + later
