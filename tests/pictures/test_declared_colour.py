"""Colours that are declared to be no sRGB, in whatever way a format has for it, are not taken as sRGB silently."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin, features

from app.pictures.decode import Limits, decode
from app.pictures.heif_boxes import read_nclx
from tests.support.pictures import blocks, chunk, encoded, png
from tests.support.profiles import SRGB_PRIMARIES, rgb_profile

ALL_FORMATS = Limits(formats=("JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "HEIF"))
P3, BT2020 = 12, 9  # primaries of H.273
SRGB_CURVE, PQ, HLG = 13, 16, 18  # transfer curves of H.273
SRGB_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)


def notes(data: bytes) -> tuple[str, ...]:
    return decode(data, ALL_FORMATS).notes


def exif_block(colour_space: int | None, index: bytes | None, order: str = "<") -> bytes:
    """An EXIF block whose directories are linked as cameras do it: main, EXIF, interoperability."""

    def directory(*entries: tuple[int, int, int, bytes]) -> bytes:
        packed = b"".join(struct.pack(f"{order}HHL", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
        return struct.pack(f"{order}H", len(entries)) + packed + bytes(4)

    long = struct.Struct(f"{order}L").pack
    main = directory((0x8769, 4, 1, long(26)))
    entries = [] if colour_space is None else [(0xA001, 3, 1, struct.pack(f"{order}H", colour_space))]
    behind = 26 + 6 + 12 * (len(entries) + (index is not None))
    exif = directory(*entries, *([] if index is None else [(0xA005, 4, 1, long(behind))]))
    interoperability = b"" if index is None else directory((1, 2, 4, index + b"\0"))
    return (b"II*\0" if order == "<" else b"MM\0*") + long(8) + main + exif + interoperability


def in_png(*chunks: bytes) -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in blocks())
    return png(24, 16, 8, 2, rows, *chunks)


def cicp(primaries: int, transfer: int, full_range: int = 1) -> bytes:
    return chunk(b"cICP", bytes((primaries, transfer, 0, full_range)))


def chrm(chromaticities: tuple[float, ...]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in chromaticities)))


def with_exif(format_name: str, block: bytes) -> bytes:
    if format_name == "PNG":
        return in_png(chunk(b"eXIf", block))
    return encoded(Image.fromarray(blocks()), format_name, exif=b"Exif\0\0" + block)


def tiff(chromaticities: tuple[float, ...]) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[318], tags[319] = chromaticities[:2], chromaticities[2:]
    return encoded(Image.fromarray(blocks()), "TIFF", tiffinfo=tags)


def tiff_with_exif(colour_space: int) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x8769] = {0xA001: colour_space}
    return encoded(Image.fromarray(blocks()), "TIFF", tiffinfo=tags)


def avif(primaries: int, transfer: int, **options: Any) -> bytes:
    if not features.check("avif"):
        pytest.skip("Pillow has no AVIF")
    data = encoded(Image.fromarray(blocks()), "AVIF", **options)
    place = data.index(b"nclx") + 4
    return data[:place] + struct.pack(">HH", primaries, transfer) + data[place + 4 :]


def heif(primaries: int, transfer: int) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    options = {"color_primaries": primaries, "transfer_characteristics": transfer, "matrix_coefficients": 9}
    return encoded(Image.fromarray(blocks()).resize((64, 64)), "HEIF", **options)


def bmp(colour_space: bytes) -> bytes:
    """A BMP with the header of version 5."""
    pixels = blocks()[::-1, :, ::-1].tobytes()
    header = struct.pack("<IiiHHIIiiII", 124, 24, 16, 1, 24, 0, len(pixels), 0, 0, 0, 0) + bytes(16) + colour_space
    return b"BM" + struct.pack("<IHHI", 138 + len(pixels), 0, 0, 138) + header.ljust(124, b"\0") + pixels


DECLARED: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG in P3": (lambda: in_png(cicp(P3, SRGB_CURVE)), "Display P3"),
    "PNG in PQ": (lambda: in_png(cicp(BT2020, PQ)), "BT.2020 with PQ"),
    "PNG in HLG": (lambda: in_png(cicp(1, HLG)), "HLG"),
    "PNG in narrow range": (lambda: in_png(cicp(1, SRGB_CURVE, 0)), "narrow range"),
    "PNG in an unknown space": (lambda: in_png(cicp(99, 98)), "primaries of kind 99"),
    "PNG with primaries": (lambda: in_png(chrm(ADOBE_CHROMATICITIES)), "other primaries"),
    "AVIF in P3": (lambda: avif(P3, SRGB_CURVE), "Display P3"),
    "AVIF in PQ": (lambda: avif(BT2020, PQ), "PQ"),
    "HEIF in PQ": (lambda: heif(BT2020, PQ), "PQ"),
    "TIFF with primaries": (lambda: tiff(ADOBE_CHROMATICITIES), "other primaries"),
    "TIFF with EXIF": (lambda: tiff_with_exif(65_535), "other than sRGB"),
    "BMP with a profile": (lambda: bmp(b"DEBM"), "a profile"),
    "JPEG of no calibrated space": (lambda: with_exif("JPEG", exif_block(65_535, None)), "other than sRGB"),
    "JPEG in Adobe RGB by number": (lambda: with_exif("JPEG", exif_block(2, None)), "Adobe RGB"),
    "JPEG in Adobe RGB by index": (lambda: with_exif("JPEG", exif_block(None, b"R03")), "Adobe RGB"),
}
SRGB: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: in_png(cicp(1, SRGB_CURVE)),
    "PNG in BT.709": lambda: in_png(cicp(1, 1)),
    "PNG with primaries": lambda: in_png(chrm(SRGB_CHROMATICITIES)),
    "PNG that says sRGB first": lambda: in_png(chunk(b"sRGB", b"\0"), chrm(ADOBE_CHROMATICITIES)),
    "PNG with a better declaration": lambda: in_png(cicp(1, SRGB_CURVE), chrm(ADOBE_CHROMATICITIES)),
    "AVIF": lambda: avif(1, SRGB_CURVE),
    "AVIF that says nothing": lambda: avif(2, 2),
    "AVIF with a profile": lambda: avif(P3, SRGB_CURVE, icc_profile=rgb_profile(SRGB_PRIMARIES)),
    "HEIF": lambda: heif(1, SRGB_CURVE),
    "TIFF": lambda: tiff(SRGB_CHROMATICITIES),
    "BMP": lambda: bmp(b"BGRs"),
    "JPEG": lambda: with_exif("JPEG", exif_block(1, b"R98")),
    "JPEG that says nothing": lambda: with_exif("JPEG", exif_block(None, None)),
}


@pytest.mark.parametrize("name", DECLARED)
def test_a_declared_colour_space_is_said(name: str) -> None:
    make, expected = DECLARED[name]
    [note] = notes(make())
    assert expected in note and "not converted" in note and "save it as sRGB" in note


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_adobe_rgb_in_exif_is_said(format_name: str, order: str) -> None:
    [note] = notes(with_exif(format_name, exif_block(65_535, b"R03", order)))
    assert "Adobe RGB" in note and "not converted" in note


@pytest.mark.parametrize("name", SRGB)
def test_what_is_declared_as_srgb_needs_no_note(name: str) -> None:
    assert notes(SRGB[name]()) == ()


def test_only_the_curve_of_greyscale_counts() -> None:
    rows = b"".join(b"\0" + bytes(range(0, 240, 10)) for _ in range(16))
    assert notes(png(24, 16, 8, 0, rows, cicp(BT2020, SRGB_CURVE))) == ()
    assert notes(png(24, 16, 8, 0, rows, chrm(ADOBE_CHROMATICITIES))) == ()
    assert "PQ" in notes(png(24, 16, 8, 0, rows, cicp(BT2020, PQ)))[0]


@settings(max_examples=60)
@given(cut=st.integers(0, 400), changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4))
@pytest.mark.parametrize("name", ["EXIF", "cICP", "cHRM", "AVIF"])
def test_no_damaged_declaration_breaks_the_decoder(name: str, cut: int, changes: list[tuple[int, int]]) -> None:
    bodies: dict[str, Callable[[], bytes]] = {
        "EXIF": lambda: exif_block(65_535, b"R03"),
        "cICP": lambda: cicp(P3, PQ)[8:12],
        "cHRM": lambda: chrm(ADOBE_CHROMATICITIES)[8:40],
        "AVIF": lambda: avif(P3, PQ),
    }
    body = bytearray(bodies[name]())
    for place, value in changes:
        body[place % len(body)] = value
    damaged = bytes(body if name == "cHRM" else body[: max(1, len(body) - cut % 8)])  # Pillow refuses a short cHRM
    if name == "AVIF":
        codes = read_nclx(damaged)
        assert codes is None or all(0 <= number < 2**16 for number in codes)
        return
    kind = {"EXIF": b"eXIf"}.get(name, name.encode())
    picture = decode(in_png(chunk(kind, damaged)), Limits())
    assert np.array_equal(np.asarray(picture.image), blocks()) or name == "EXIF"  # it may hold an orientation
