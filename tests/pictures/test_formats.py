"""A file's kind is told by its content; what is not read is named."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.errors import UnsupportedMediaType
from app.pictures.decode import Limits, decode
from app.pictures.formats import (
    MORE_FORMATS,
    SIGNATURES,
    SNIFFED_BYTES,
    describe,
    format_of,
    is_installed,
    readable_formats,
)
from tests.support.pictures import blocks, encoded, exif, turned

ALL = Limits(formats=(*SIGNATURES, *MORE_FORMATS))
SHARPEST: dict[str, dict[str, Any]] = {
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "HEIF": {"quality": -1, "chroma": 444},
}


def modern(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """A picture as AVIF or HEIF."""
    if format_name == "HEIF":
        pillow_heif = pytest.importorskip("pillow_heif")
        file = io.BytesIO()
        pillow_heif.from_pillow(image).save(file, **SHARPEST["HEIF"] | options)
        return file.getvalue()
    return encoded(image, format_name, **SHARPEST[format_name] | options)


@pytest.mark.parametrize("format_name", MORE_FORMATS)
def test_modern_formats_are_read_on_request(format_name: str) -> None:
    data = modern(Image.fromarray(blocks()).resize((96, 64), Image.Resampling.NEAREST), format_name)
    picture = decode(data, ALL)
    middles = np.asarray(picture.image)[16::32, 16::32].astype(int)
    assert picture.format == format_name and picture.image.size == (96, 64) and picture.notes == ()
    assert np.abs(middles - blocks()[4::8, 4::8]).max() <= 4
    with pytest.raises(UnsupportedMediaType, match=f"{format_name} picture.*FUSIONLENS_MORE_FORMATS"):
        decode(data, Limits())


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("format_name", MORE_FORMATS)
def test_a_modern_picture_is_turned_upright_once(format_name: str, orientation: int) -> None:
    large = np.asarray(Image.fromarray(blocks()).resize((96, 64), Image.Resampling.NEAREST))
    data = modern(Image.fromarray(turned(large, orientation)), format_name, exif=exif(orientation).tobytes())
    picture = decode(data, ALL)
    assert picture.image.size == (96, 64)
    assert np.abs(np.asarray(picture.image)[16::32, 16::32].astype(int) - blocks()[4::8, 4::8]).max() <= 4


@pytest.mark.parametrize("format_name", MORE_FORMATS)
def test_transparent_parts_are_white(format_name: str) -> None:
    rgba = Image.new("RGBA", (64, 64), (200, 30, 30, 0))
    picture = decode(modern(rgba, format_name), ALL)
    assert np.asarray(picture.image).min() >= 253 and "white" in picture.notes[0]


def test_every_format_is_told_by_its_first_bytes() -> None:
    image = Image.fromarray(blocks())
    for name in SIGNATURES:
        assert format_of(encoded(image, name)[:SNIFFED_BYTES]) == name
    for name in MORE_FORMATS:
        if is_installed(name):
            assert format_of(modern(image, name)[:SNIFFED_BYTES]) == name and name in readable_formats()


def tiff(*entries: tuple[int, int, int], pages: int = 1) -> bytes:
    """A TIFF of one grey pixel a page, with further entries (tag, type, value) in its first directory."""
    data, link = b"II*\0" + bytes(4) + b"\x80\0\0\0", 4
    for page in range(pages):
        tags = {
            256: (4, 1),
            257: (4, 1),
            258: (3, 8),
            259: (3, 1),
            262: (3, 1),
            273: (4, 8),
            277: (3, 1),
            278: (4, 1),
            279: (4, 1),
        }
        tags |= {tag: (kind, value) for tag, kind, value in entries if page == 0}
        start = len(data)
        data = data[:link] + struct.pack("<L", start) + data[link + 4 :]
        rows = b"".join(struct.pack("<HHLL", tag, kind, 1, value) for tag, (kind, value) in sorted(tags.items()))
        link = start + 2 + len(rows)
        data += struct.pack("<H", len(tags)) + rows + bytes(4)
    return data


RAW = {
    "DNG": tiff((50706, 1, 0x0401)),
    "a sensor's pattern": tiff((33421, 3, 2)),
    "thumbnail before its picture": tiff((254, 4, 1), (330, 4, 8)),
    "thumbnail before a page": tiff((254, 4, 1), pages=2),
    "CR2": b"II*\0\x10\0\0\0CR\x02\0" + bytes(40),
    "CR3": struct.pack(">L4s4s", 24, b"ftyp", b"crx ") + bytes(40),
    "RAF": b"FUJIFILMCCD-RAW 0201" + bytes(40),
}


@pytest.mark.parametrize("name", RAW)
def test_a_camera_raw_file_is_refused_not_taken_for_its_thumbnail(name: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="raw file"):
        decode(RAW[name], Limits())


@pytest.mark.parametrize("pages", [1, 2])
def test_other_tiffs_of_one_or_more_pages_are_read(pages: int) -> None:
    picture = decode(tiff(pages=pages), Limits())
    assert np.asarray(picture.image).tolist() == [[[128] * 3]] and len(picture.notes) == pages - 1


KINDS = {
    b"II+\0\x08\0\0\0": "a BigTIFF",
    b"MM\0+\0\x08\0\0": "a BigTIFF",
    bytes(128) + b"DICM": "a DICOM file",
    b"P5\n2 2\n255\n": "a PNM picture",
    b"P6 2 2 255 ": "a PNM picture",
    b"\0\0\0\x0cJXL \r\n\x87\n": "a JPEG XL picture",
    b"\0\0\0\x0cjP  \r\n\x87\n": "a JPEG 2000 picture",
    b"%PDF-1.7": "a PDF",
    b"8BPS\0\1": "a Photoshop file",
    b"\xef\xbb\xbf<!DOCTYPE html><html>": "a web page",
    b"<?xml version='1.0'?><svg/>": "an XML file",
    b"<svg xmlns='x'>": "an SVG picture",
    b"PK\x03\x04": "a ZIP archive",
    struct.pack(">L4s4s", 24, b"ftyp", b"isom") + b"\0\0\0\0mp41": "a film",
    b"RIFF\0\0\0\0WAVE": "no picture in a known format",
    b"hello": "no picture in a known format",
}


@pytest.mark.parametrize(("start", "name"), KINDS.items(), ids=KINDS.values())
def test_what_is_not_read_is_named(start: bytes, name: str) -> None:
    assert format_of(start) is None and describe(start) == name
    with pytest.raises(UnsupportedMediaType, match=f"This is {name}.*send JPEG"):
        decode(start, ALL)


def test_any_cut_of_a_file_type_box_is_told_or_refused() -> None:
    whole = modern(Image.fromarray(blocks()), "AVIF")
    assert {format_of(whole[:size]) for size in range(64)} == {None, "AVIF"}


def test_real_photographs_keep_their_format_in_other_formats(shared_data: Path) -> None:
    """A photograph as AVIF and HEIF differs from the original by the loss of the encoder only."""
    photograph = Image.open(next((shared_data / "photos").glob("*.jpg"))).convert("RGB")
    for name in MORE_FORMATS:
        read = np.asarray(decode(modern(photograph, name), ALL).image).astype(int)
        assert np.abs(read - np.asarray(photograph)).mean() < 3
