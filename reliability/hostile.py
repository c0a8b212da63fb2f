"""Hostile uploads: real pictures damaged in every way, bombs, files that are two things at once, absurd metadata.

Everything is drawn from a seed, so that an upload that breaks something can be made again.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from app.pictures.formats import MORE_FORMATS, is_installed
from reliability import bombs
from reliability.containers import (
    ASCII,
    FIRST_IFD,
    LARGEST,
    LONG,
    RATIONAL,
    SHORT,
    SIGNATURES,
    UNDEFINED,
    behind,
    directory,
    entry,
    lengths,
    parts,
    tiff,
    with_number,
    with_right_checksums,
)

LARGEST_REAL_BYTES, MOST_REAL = 1_000_000, 60
ORIENTATION, EXIF_IFD, GPS_IFD, THUMBNAIL = 0x0112, 0x8769, 0x8825, 0x0201
WITH_METADATA = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True)
class Hostile:
    """An upload: `number` and the seed make it again."""

    number: int
    family: str
    data: bytes

    @property
    def is_bomb(self) -> bool:
        return self.family.startswith("bomb")


def hostile_uploads(seed: int, real: Path | None = None) -> Iterator[Hostile]:
    """Uploads without end, every family in turn. `real` is a folder of pictures to damage beside the drawn ones."""
    pictures = [*drawn().values(), *(_read(real) if real else [])]
    number = 0
    while True:
        family = list(FAMILIES)[number % len(FAMILIES)]
        yield Hostile(number, family, FAMILIES[family](Random(f"{seed}/{number}"), pictures))
        number += 1


def scene(width_px: int, height_px: int) -> Image.Image:
    """A soft picture with a dark spot and some grain, too rough to be packed into a few bytes."""
    x, y = np.meshgrid(np.linspace(0, 1, width_px), np.linspace(0, 1, height_px))
    spot = 1 - 0.8 * np.exp(-40 * ((x - 0.6) ** 2 + (y - 0.4) ** 2))
    grain = np.random.default_rng(0).normal(0, 6, (height_px, width_px, 3))
    colours = np.stack([90 + 150 * x, 80 + 160 * y, 220 - 150 * x * y], axis=-1) * spot[..., None] + grain
    return Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))


@cache
def drawn() -> dict[str, bytes]:
    """A drawn picture in the formats that are read, their modes, compressions and moving kinds."""
    image = scene(96, 64)
    again: dict[str, Any] = {"save_all": True, "append_images": [image.rotate(180), image.rotate(90)]}
    kinds: dict[str, tuple[str, str, dict[str, Any]]] = {
        **{name: (name, "RGB", {}) for name in SIGNATURES},
        **{f"PNG {mode}": ("PNG", mode, {}) for mode in ("1", "L", "P", "LA", "RGBA", "I;16")},
        **{f"JPEG {mode}": ("JPEG", mode, {}) for mode in ("L", "CMYK")},
        **{
            f"TIFF {name}": ("TIFF", "RGB", {"compression": name})
            for name in ("tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg")
        },
        **{f"moving {name}": (name, "RGB", again) for name in ("GIF", "PNG", "WEBP", "TIFF")},
        **{f"{name} of a camera": (name, "RGB", {"exif": exif(6)}) for name in WITH_METADATA},
        "TIFF fax": ("TIFF", "1", {"compression": "group4"}),
        "TIFF tiles": ("TIFF", "F", {}),
        "progressive JPEG": ("JPEG", "RGB", {"progressive": True}),
        "lossless WEBP": ("WEBP", "RGBA", {"lossless": True}),
        "BMP P": ("BMP", "P", {}),
        "JPEG of two frames": ("MPO", "RGB", again),
        **{
            f"{name} {mode}": (name, mode, {})
            for name in MORE_FORMATS
            if is_installed(name)
            for mode in ("RGB", "RGBA")
        },
    }
    return {name: saved(image.convert(mode), kind, **options) for name, (kind, mode, options) in kinds.items()}


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a picture file."""
    file = io.BytesIO()
    if kind == "HEIF":
        import pillow_heif  # an optional dependency

        pillow_heif.from_pillow(image).save(file, **options)
    else:
        image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    """An EXIF block with an orientation and a second directory."""
    entries = [entry(0x010F, ASCII, 9, behind(3)), entry(ORIENTATION, SHORT, 1, orientation)]
    return b"Exif\0\0" + tiff([*entries, entry(GPS_IFD, LONG, 1, behind(3) + 9)], b"a camera\0" + directory([]))


def flipped(rng: Random, pictures: list[bytes]) -> bytes:
    """Some bits are turned."""
    data = bytearray(rng.choice(pictures))
    for _ in range(rng.choice([1, 1, 3, 10, 100])):
        data[int(len(data) * rng.random() ** 2)] ^= 1 << rng.randrange(8)
    return _checked(bytes(data), rng)


def cut_off(rng: Random, pictures: list[bytes]) -> bytes:
    """The end, or the middle, is missing."""
    data, places = rng.choice(pictures), sorted((rng.random() ** rng.choice([1, 4]), rng.random()))
    first, last = (int(place * len(data)) for place in places)
    return data[:last] if rng.random() < 0.6 else data[:first] + data[last:]


def spliced(rng: Random, pictures: list[bytes]) -> bytes:
    """The beginning of one file and the end, or parts, of another."""
    first, second = rng.choice(pictures), rng.choice(pictures)
    if rng.random() < 0.5:
        return first[: rng.randrange(len(first))] + second[rng.randrange(len(second)) :]
    own, others = parts(first), parts(second)
    return b"".join([*own[: rng.randint(1, len(own))], *others[rng.randrange(len(others)) :]])


def wrong_lengths(rng: Random, pictures: list[bytes]) -> bytes:
    """Lengths, counts and places say something else."""
    data = rng.choice(pictures)
    for place, kind in rng.choices(lengths(data), k=rng.choice([1, 1, 1, 2, 4])):
        data = with_number(data, place, kind, rng)
    return data


def wrong_parts(rng: Random, pictures: list[bytes]) -> bytes:
    """Parts stand elsewhere, twice, many times or not at all."""
    found = parts(rng.choice(pictures))
    for _ in range(rng.randint(1, 3)):
        at, to = rng.randrange(len(found)), rng.randrange(len(found) + 1)
        kind = rng.choice(["move", "again", "gone", "often"])
        part = found.pop(at) if kind in ("move", "gone") and len(found) > 1 else found[at]
        if kind != "gone":
            found[to:to] = [part] * (rng.choice([10, 300]) if kind == "often" and len(part) < 5_000 else 1)
    return b"".join(found)


def wrong_header(rng: Random, pictures: list[bytes]) -> bytes:
    """The first bytes behind the signature are others."""
    data = bytearray(rng.choice(pictures))
    for _ in range(rng.choice([1, 2, 4])):
        data[rng.randrange(4, min(64, len(data)))] = rng.choice([0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)])
    return _checked(bytes(data), rng)


def noise(rng: Random, pictures: list[bytes]) -> bytes:
    """A signature, and nothing that belongs to it."""
    filler = rng.choice([bytes(4096), b"\xff" * 4096, rng.randbytes(4096), b"<svg/>" * 100])
    return rng.choice([*SIGNATURES.values(), b"", b"RIFF"]) + filler[: rng.choice([0, 1, 8, 100, 4096])]


def two_things(rng: Random, pictures: list[bytes]) -> bytes:
    """A picture that is an archive, a page, a script or a document as well."""
    other, picture = rng.choice(_others()), rng.choice(pictures)
    kind = rng.choice(["behind", "before", "within", "signature"])
    if kind == "within":
        found = parts(picture)
        return b"".join([found[0], other, *found[1:]])
    return {"behind": picture + other, "before": other + picture}.get(kind, rng.choice([*SIGNATURES.values()]) + other)


def other_format(rng: Random, pictures: list[bytes]) -> bytes:
    """What Pillow could read and this service does not, as it is or behind a signature that is not its own."""
    data = rng.choice(_other_formats())
    start = rng.choice([b"", b"", *SIGNATURES.values()])
    return start + (data if rng.random() < 0.5 else data[len(start) :])


def absurd_exif(rng: Random, pictures: list[bytes]) -> bytes:
    """EXIF that is nonsense, huge, or refers to itself."""
    block = b"Exif\0\0" + rng.choice(_exif_blocks(rng.choice([0, 9, 99, 65_535])))
    if rng.random() < 0.3:
        block = block[: rng.randrange(6, min(len(block), 200))]
    kind = rng.choice(WITH_METADATA)
    return saved(scene(96, 64), kind, exif=block[:65_000] if kind == "JPEG" else block)


def absurd_icc(rng: Random, pictures: list[bytes]) -> bytes:
    """A colour profile that is noise, huge, or wrong about itself."""
    header = struct.pack(">I4x4x", rng.choice([0, 128, LARGEST])) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(88)
    tags = (
        struct.pack(">I", rng.choice([0, 1, LARGEST])) + b"A2B0" + struct.pack(">II", 128, LARGEST) + rng.randbytes(99)
    )
    profile = rng.choice([rng.randbytes(3_000), header + tags, b"", bytes(rng.choice([70_000, 2_000_000]))])
    data = saved(scene(96, 64), rng.choice([*WITH_METADATA, "TIFF"]), icc_profile=profile or b"\0")
    if rng.random() < 0.3 and data.startswith(b"\xff\xd8"):
        data = data.replace(b"ICC_PROFILE\0\1", b"ICC_PROFILE\0\xff")
    return data


Maker = Callable[[Random, list[bytes]], bytes]
FAMILIES: dict[str, Maker] = {
    "flipped bits": flipped,
    "bomb of pixels": lambda rng, pictures: bombs.size_bomb(rng),
    "cut off": cut_off,
    "two things at once": two_things,
    "spliced": spliced,
    "bomb of frames": lambda rng, pictures: bombs.frame_bomb(rng),
    "wrong lengths": wrong_lengths,
    "absurd EXIF": absurd_exif,
    "wrong parts": wrong_parts,
    "bomb of directories": lambda rng, pictures: bombs.directory_bomb(rng),
    "wrong header": wrong_header,
    "absurd ICC": absurd_icc,
    "noise": noise,
    "bomb of ratio": lambda rng, pictures: bombs.ratio_bomb(rng),
    "another format": other_format,
}


def _checked(data: bytes, rng: Random) -> bytes:
    return with_right_checksums(data) if data.startswith(b"\x89PNG") and rng.random() < 0.7 else data


def _read(folder: Path) -> list[bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < LARGEST_REAL_BYTES)
    read = [path.read_bytes() for path in files]
    return [data for data in read if data.startswith((b"\xff\xd8\xff\xe0", b"\x89PNG", b"RIFF", b"GIF8"))][:MOST_REAL]


@cache
def _others() -> list[bytes]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("shell.php", "<?php system($_GET['c']); ?>")
    page = b"<!DOCTYPE html><script>alert(document.domain)</script>"
    script = b"/*" + bytes(20) + b"*/=1;alert(1)//"
    return [
        archive.getvalue(),
        page,
        script,
        b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
        b"\x7fELF",
        b"MZ\x90",
    ]


@cache
def _other_formats() -> list[bytes]:
    image = scene(32, 32)
    kinds = ("DIB", "DDS", "EPS", "ICNS", "ICO", "IM", "JPEG2000", "PCX", "PDF", "PPM", "SGI", "SPIDER", "TGA", "QOI")
    modes = {"SPIDER": "F"}
    files = [saved(image.convert(modes.get(kind, "RGB")), kind) for kind in kinds]
    header = b"".join(line.ljust(80) for line in (b"SIMPLE  =  T", b"BITPIX  =  8", b"NAXIS   =  0", b"END"))
    photoshop = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 4, 4, 8, 3) + bytes(64)
    return [
        *files,
        header.ljust(2880) + bytes(64),
        photoshop,
        b"\0\0\0\x20ftypavif" + bytes(64),
        b"P7\n332\n" + bytes(64),
    ]


def _exif_blocks(orientation: int) -> list[bytes]:
    turned = entry(ORIENTATION, SHORT, 1, orientation)
    loop = [turned, entry(EXIF_IFD, LONG, 1, FIRST_IFD), entry(GPS_IFD, LONG, 1, FIRST_IFD)]
    return [
        tiff([turned]),
        tiff([entry(ORIENTATION, kind, count, orientation) for kind in (ASCII, RATIONAL, 99) for count in (1, 0)]),
        tiff([entry(ORIENTATION, SHORT, LARGEST, orientation)], bytes(9)),
        tiff([turned] * 5_000),
        bombs.many_entries(1),
        tiff(loop, following=FIRST_IFD),
        tiff([entry(0x0100 + at, UNDEFINED, LARGEST, LARGEST) for at in range(30)]),
        tiff([turned, entry(THUMBNAIL, LONG, 1, 0)], bytes(800_000)),
        b"MM\0*" + tiff([turned])[4:],
        b"II*\0" + struct.pack("<I", LARGEST),
        bytes(60_000),
    ]
