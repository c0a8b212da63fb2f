"""Small files that ask for much: pixels, frames, bytes behind a compression, directories without end."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from random import Random

from PIL import Image

from reliability.containers import (
    ASCII,
    BYTE,
    FIRST_IFD,
    LARGEST,
    LONG,
    RATIONAL,
    SHORT,
    behind,
    chunk,
    directory,
    entry,
    png,
    riff,
    tiff,
    webp,
)

WEBP_SIDE = 16_383
SIDES = (16_385, 20_000, 30_000, 46_341, 65_500)
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIPS, SAMPLES, ROWS, STRIP_BYTES = (
    *(256, 257, 258, 259, 262),
    *(273, 277, 278, 279),
)
DEFLATE, PACKBITS = 8, 32773


def size_bomb(rng: Random) -> bytes:
    """More pixels than may be, by the header."""
    width, height = rng.choice(SIDES), rng.choice([1, 4_000, *SIDES])
    return rng.choice([_huge_png, _huge_jpeg, _huge_gif, _huge_bmp, _huge_webp, _huge_tiff])(width, height, rng)


def frame_bomb(rng: Random) -> bytes:
    """A small picture with thousands of frames."""
    return frames(rng.choice(["GIF", "PNG", "WEBP", "TIFF"]), rng.choice([1_000, 5_000, 20_000]))


def frames(kind: str, count: int) -> bytes:
    """A small picture of the format with so many frames."""
    made = {"GIF": _gif_frames, "PNG": _png_frames, "WEBP": _webp_frames, "TIFF": _tiff_frames}
    return made[kind](count)


def ratio_bomb(rng: Random) -> bytes:
    """Megabytes behind each kilobyte, in what stands beside the pixels or is more than they are."""
    kind = rng.choice([b"zTXt", b"iTXt", b"iCCP", b"IDAT", b"eXIf", b"tEXt", b"many", b"TIFF"])
    if kind == b"many":
        return many_texts()
    if kind == b"TIFF":
        return _plain_tiff(8, 8, DEFLATE, _zeros(100))
    return packed(kind, rng.choice([20, 100]))


def packed(kind: bytes, megabytes: int) -> bytes:
    """A small PNG with a chunk that holds so much, if it is one that is compressed."""
    bodies = {
        b"zTXt": b"Comment\0\0" + _zeros(megabytes),
        b"iTXt": b"Comment\0\1\0\0\0" + _zeros(megabytes),
        b"iCCP": b"profile\0\0" + _zeros(megabytes),
        b"eXIf": bytes(5_000_000),
        b"tEXt": b"Comment\0" + bytes(5_000_000),
    }
    if kind == b"IDAT":
        return png(4, 4, _zeros(megabytes))
    return png(2, 1, zlib.compress(bytes(3)), chunk(kind, bodies[kind]))


def directory_bomb(rng: Random) -> bytes:
    """A TIFF file whose directories are endless, or say that they hold billions of values."""
    kind = rng.choice(["itself", "circle", "count", "strips", "one strip", "entries", "EXIF", "samples"])
    base = _base_entries(8, 8, 1)
    far = behind(len(base))
    if kind == "itself":
        return tiff(base, bytes(64), following=FIRST_IFD)
    if kind == "circle":
        return tiff(base, directory(base, FIRST_IFD), following=far)
    if kind == "count":
        tag, form = rng.choice([270, 305, 700, 34665, 34675, STRIPS, BITS]), rng.choice([BYTE, ASCII, SHORT, RATIONAL])
        return tiff(sorted([*base, entry(tag, form, rng.choice([2**20, 2**28, LARGEST]), far)]), bytes(4096))
    if kind in ("strips", "one strip"):
        return many_strips(rng.choice([10_000, 100_000]), shared=kind == "one strip")
    if kind == "entries":
        return many_entries(rng.choice([1, 4, 100]))
    if kind == "EXIF":
        return tiff([*base, *(entry(tag, LONG, 1, FIRST_IFD) for tag in (330, 34665, 34853, 40965))], bytes(64))
    odd = [entry(SAMPLES, SHORT, 1, 65_535), entry(ROWS, LONG, 1, 0), entry(STRIP_BYTES, LONG, 1, LARGEST)]
    return tiff([one for one in base if struct.unpack_from("<H", one)[0] < SAMPLES] + odd, bytes(64))


def many_texts() -> bytes:
    """A PNG with a thousand megabytes of text, each piece no larger than Pillow lets pass."""
    return png(2, 1, zlib.compress(bytes(3)), chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(500_000))) * 2_000)


def empty_scans(count: int) -> bytes:
    """A progressive JPEG with arithmetic coding and so many scans, of headers alone."""
    tables = b"\xff\xdb\0\x43\0" + b"\x10" * 64
    frame = b"\xff\xca\0\x11\x08" + struct.pack(">HH", 7070, 7070) + b"\x03\x01\x11\0\x02\x11\0\x03\x11\0"
    scan = b"\xff\xda\0\x0c\x03\x01\0\x02\0\x03\0\0\0\0"
    return b"\xff\xd8" + tables + frame + scan * count + b"\xff\xd9"


def flat_webp(width: int, height: int) -> bytes:
    """A WebP file of one colour: a header, and codes that take no bits."""
    bits = (width - 1) | (height - 1) << 14
    body = b"\x2f" + struct.pack("<L", bits) + bytes.fromhex("8888080000") + bytes(2)
    return webp(riff(b"VP8L", body))


def many_entries(count: int) -> bytes:
    """A TIFF, or EXIF block, with nearly as many entries as there are tags, all with the same `count` values."""
    base = _base_entries(8, 8, 1)
    far = behind(len(base) + 60_000)
    entries = [entry(tag, LONG, count, far) for tag in range(1_000, 61_000)]
    return tiff([*base, *entries], bytes(4 * count))


def _huge_png(width: int, height: int, rng: Random) -> bytes:
    if rng.random() < 0.1:
        return whole_png()
    return png(width, height, zlib.compress(bytes(100)), colour=rng.choice([0, 2, 6]))


@cache
def whole_png() -> bytes:
    """All its 400 million pixels are there."""
    return png(20_000, 20_000, zlib.compress(bytes(20_000 * 2_501)), depth=1)


def _huge_jpeg(width: int, height: int, rng: Random) -> bytes:
    data = bytearray(_saved("JPEG", progressive=rng.random() < 0.5))
    start = next(data.find(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in data) + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _huge_gif(width: int, height: int, rng: Random) -> bytes:
    data = bytearray(_saved("GIF"))
    places = [6] if rng.random() < 0.5 else [data.index(b",\0\0\0\0") + 5]
    for place in places:
        data[place : place + 4] = struct.pack("<HH", width, height)
    return bytes(data)


def _huge_bmp(width: int, height: int, rng: Random) -> bytes:
    data = bytearray(_saved("BMP"))
    data[18:26] = struct.pack("<ii", width, rng.choice([height, -height, 2**31 - 1, -(2**31)]))
    return bytes(data)


def _huge_webp(width: int, height: int, rng: Random) -> bytes:
    kind = rng.choice(["canvas", "lossless", "lossy"])
    if kind == "canvas":
        canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        return webp(riff(b"VP8X", bytes(4) + canvas), riff(b"VP8L", b"/" + bytes(40)))
    if kind == "lossless":
        return webp(riff(b"VP8L", b"/" + struct.pack("<I", WEBP_SIDE | WEBP_SIDE << 14) + bytes(40)))
    return webp(riff(b"VP8 ", b"\x30\x01\0\x9d\x01\x2a" + struct.pack("<HH", WEBP_SIDE, WEBP_SIDE) + bytes(40)))


def _huge_tiff(width: int, height: int, rng: Random) -> bytes:
    width, height = (width, height) if rng.random() < 0.7 else (LARGEST, rng.choice([1, LARGEST]))
    return tiff(_base_entries(width, height, rng.choice([1, DEFLATE, PACKBITS])), bytes(64))


def _gif_frames(count: int) -> bytes:
    data = _saved("GIF")
    start = data.index(b",\0\0\0\0")
    return data[:start] + data[start:-1] * count + b";"


def _png_frames(count: int) -> bytes:
    pixels, frames = zlib.compress(bytes(3)), []
    for number in range(count):
        control = struct.pack(">IIIIIHHBB", 2 * number + 1, 2, 1, 0, 0, 1, 100, 0, 0)
        frames += [chunk(b"fcTL", control), chunk(b"fdAT", struct.pack(">I", 2 * number + 2) + pixels)]
    start = chunk(b"acTL", struct.pack(">II", count, 0)) + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 2, 1, *[0] * 6))
    return png(2, 1, pixels, start)[:-12] + b"".join(frames) + chunk(b"IEND", b"")


def _webp_frames(count: int) -> bytes:
    still = _saved("WEBP", lossless=True)[12:]
    canvas = struct.pack("<I", 7)[:3] * 2
    frame = riff(b"ANMF", bytes(6) + canvas + b"\x64\0\0\0" + still)
    return webp(riff(b"VP8X", b"\2\0\0\0" + canvas), riff(b"ANIM", bytes(6)), frame * min(count, 5_000))


def _tiff_frames(count: int) -> bytes:
    """Each directory follows the last; all pixels are the same."""
    base = _base_entries(8, 8, 1)
    size = behind(len(base)) - FIRST_IFD
    places = [FIRST_IFD + size * number for number in range(count)]
    chain = b"".join(directory(base, following) for following in [*places[1:], 0])
    return b"II*\0" + struct.pack("<I", FIRST_IFD) + chain


def many_strips(count: int, shared: bool) -> bytes:
    """As many strips as rows: each with pixels of its own, or all with the same few bytes."""
    base = [one for one in _base_entries(8, count, 1) if struct.unpack_from("<H", one)[0] not in (STRIPS, STRIP_BYTES)]
    far = behind(len(base) + 2)
    pixels = far + 8 * count
    entries = sorted([*base, entry(STRIPS, LONG, count, far), entry(STRIP_BYTES, LONG, count, far + 4 * count)])
    offsets = [pixels + (0 if shared else 8 * number) for number in range(count)]
    table = struct.pack(f"<{count}I", *offsets) + struct.pack(f"<{count}I", *[8] * count)
    return tiff(entries, table + bytes(8 if shared else 8 * count)).replace(
        entry(ROWS, LONG, 1, count), entry(ROWS, LONG, 1, 1)
    )


def _base_entries(width: int, height: int, compression: int, nbytes: int = 64) -> list[bytes]:
    """A grey picture of one strip, which stands behind the directory."""
    numbers = {WIDTH: width, HEIGHT: height, BITS: 8, COMPRESSION: compression, PHOTOMETRIC: 1}
    return [
        *(entry(tag, LONG, 1, number) for tag, number in numbers.items()),
        entry(STRIPS, LONG, 1, behind(9)),
        entry(SAMPLES, SHORT, 1, 1),
        entry(ROWS, LONG, 1, height),
        entry(STRIP_BYTES, LONG, 1, nbytes),
    ]


def _plain_tiff(width: int, height: int, compression: int, pixels: bytes) -> bytes:
    return tiff(_base_entries(width, height, compression, len(pixels)), pixels)


@cache
def _zeros(megabytes: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(megabytes)) + packer.flush()


@cache
def _saved(kind: str, **options: bool) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((8, 8)).convert("RGB").save(file, kind, **options)
    return file.getvalue()
