"""The parts that picture files are made of: to take files apart, to change their lengths, and to write them by hand."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random

SIGNATURES = {
    "JPEG": b"\xff\xd8\xff\xe0",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "WEBP": b"RIFF\0\1\0\0WEBP",
    "GIF": b"GIF89a",
    "TIFF": b"II*\0",
    "BMP": b"BM",
}
FIRST_IFD = 8
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 1, 2, 3, 4, 5, 7
LARGEST = 2**32 - 1


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, pixels: bytes, *before: bytes, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG file: `pixels` are compressed already, the chunks `before` stand in front of them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return SIGNATURES["PNG"] + header + b"".join(before) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def riff(kind: bytes, body: bytes) -> bytes:
    """A chunk of a WebP file, padded to an even length."""
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def webp(*chunks: bytes) -> bytes:
    """A WebP file of these chunks."""
    return riff(b"RIFF", b"WEBP" + b"".join(chunks))


def entry(tag: int, kind: int, count: int, value: int) -> bytes:
    """An entry of a TIFF directory; `value` is a number, or where the values stand."""
    return struct.pack("<HHII", tag, kind, count, value)


def directory(entries: Sequence[bytes], following: int = 0) -> bytes:
    """A TIFF directory, and where the next one stands."""
    return struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", following)


def tiff(entries: Sequence[bytes], behind: bytes = b"", following: int = 0) -> bytes:
    """A TIFF file, or an EXIF block, of one directory and the bytes behind it."""
    return b"II*\0" + struct.pack("<I", FIRST_IFD) + directory(entries, following) + behind


def behind(entries: int) -> int:
    """Where the bytes behind a `tiff` of so many entries stand."""
    return FIRST_IFD + 2 + 12 * entries + 4


def with_right_checksums(data: bytes) -> bytes:
    """A changed PNG as its own author would have written it, so that the damage is met behind the checksums."""
    whole, place = data[:8], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        whole += chunk(data[place + 4 : place + 8], data[place + 8 : place + 8 + length])
        place += 12 + length
    return whole + data[place:]


def parts(data: bytes) -> list[bytes]:
    """The parts of a whole file of one of the formats that are read, which joined give it again."""
    if data[4:8] == b"ftyp":
        return _cut(data, 0, lambda place: _box(data, place))
    if data.startswith(b"\x89PNG"):
        return _cut(data, 8, lambda place: 12 + _number(data, place, ">I"))
    if data.startswith(b"RIFF"):
        return _cut(data, 12, lambda place: 8 + (_number(data, place + 4, "<I") + 1) // 2 * 2)
    if data.startswith(b"\xff\xd8"):
        return _cut(data, 2, lambda place: len(data) if data[place + 1] == 0xDA else 2 + _number(data, place + 2, ">H"))
    if data.startswith(b"GIF"):
        palette = 3 * 2 ** (1 + (data[10] & 7)) if data[10] & 0x80 else 0
        return _cut(data, 13 + palette, lambda place: _gif_block(data, place))
    if data.startswith(b"II*\0"):
        first = _number(data, 4, "<I")
        last = first + 2 + 12 * _number(data, first, "<H")
        return [data[: first + 2], *(data[at : at + 12] for at in range(first + 2, last, 12)), data[last:]]
    return [data[:14], data[14:54], *(data[at : at + 256] for at in range(54, len(data), 256))]


def lengths(data: bytes) -> list[tuple[int, str]]:
    """Where a file says how long or how many, or where something stands, and how that number is written."""
    found, place = [], 0
    inside = {b"\x89": [(0, ">I")], b"\xff": [(2, ">H")], b"R": [(4, "<I")], b"I": [(2, "<H"), (4, "<I"), (8, "<I")]}
    inside |= {b"\0": [(0, ">I"), (12, ">H"), (16, ">I")]}
    fields = inside.get(data[:1], [])
    if data.startswith(b"GIF"):
        fields = [(1, "<H"), (5, "<H"), (7, "<H"), (10, "<B"), (11, "<B")]
    for part in parts(data):
        found += [(place + at, kind) for at, kind in fields if at + struct.calcsize(kind) <= len(part) and place]
        place += len(part)
    if data.startswith(b"BM"):
        found = [(at, "<I") for at in (2, 10, 14, 18, 22, 30, 34, 46, 50)] + [(26, "<H"), (28, "<H")]
    return found or [(4, "<I")]


def with_number(data: bytes, place: int, kind: str, rng: Random) -> bytes:
    """A file with another number in one of its `lengths`: an extreme one, or one near by."""
    most = 2 ** (8 * struct.calcsize(kind)) - 1
    near = _number(data, place, kind) + rng.choice([-2, -1, 1, 2, len(data)])
    number = rng.choice([0, 1, most, most // 2, most // 2 + 1, near, near, rng.randint(0, most)])
    changed = bytearray(data)
    struct.pack_into(kind, changed, place, max(0, min(most, number)))
    return bytes(changed)


def _number(data: bytes, place: int, kind: str) -> int:
    size = struct.calcsize(kind)
    return int.from_bytes(data[place : place + size], "big" if kind[0] == ">" else "little")


def _cut(data: bytes, start: int, length_at: Callable[[int], int]) -> list[bytes]:
    found, place = [data[:start]], start
    while place < len(data):
        length = max(1, length_at(place)) if place + 4 <= len(data) else len(data)
        found.append(data[place : place + length])
        place += length
    return found


def _box(data: bytes, place: int) -> int:
    """The length of a box of an AVIF or HEIF file. Of a box of boxes, only its own header."""
    headers = {b"meta": 12, b"iprp": 8, b"ipco": 8}
    return headers.get(data[place + 4 : place + 8]) or _number(data, place, ">I")


def _gif_block(data: bytes, place: int) -> int:
    """The length of the block at `place`: an extension, or a picture with its palette."""
    at = place + 2
    if data[place] == 0x2C:
        flags = data[min(place + 9, len(data) - 1)]
        at = place + 11 + (3 * 2 ** (1 + (flags & 7)) if flags & 0x80 else 0)
    elif data[place] != 0x21:
        return 1
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1 - place
