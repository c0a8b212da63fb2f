"""The orientation is found wherever programs write it in a PNG, also in the text chunks of ImageMagick."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image

from app.pictures.decode import Limits, Picture, decode
from tests.support.pictures import blocks, chunk, exif, png, turned

PREFIX = b"Exif\0\0"
KINDS = [b"exif", b"APP1"]


def in_text(name: bytes, digits: bytes, orientation: int = 1) -> Picture:
    """A PNG of blocks, stored in an orientation, with a text chunk as ImageMagick writes it for a profile."""
    text = b"\ngeneric\n%8d\n" % (len(digits) // 2) + b"\n".join(
        digits[start : start + 72] for start in range(0, len(digits), 72)
    )
    stored = turned(blocks(), orientation)
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    body = b"Raw profile type " + name + b"\0\0" + zlib.compress(text + b"\n")
    return decode(png(stored.shape[1], stored.shape[0], 8, 2, rows, chunk(b"zTXt", body)), Limits())


def block(orientation: int) -> bytes:
    return exif(orientation).tobytes().removeprefix(PREFIX)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_orientation_in_a_text_chunk_is_used(kind: bytes, orientation: int) -> None:
    picture = in_text(kind, (PREFIX + block(orientation)).hex().encode(), orientation)
    assert np.array_equal(np.asarray(picture.image), blocks()) and picture.notes == ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("digits", [b"no digits", (PREFIX + block(6)[:12]).hex().encode()], ids=["text", "cut off"])
def test_a_damaged_text_chunk_is_said(kind: bytes, digits: bytes) -> None:
    picture = in_text(kind, digits)
    assert np.array_equal(np.asarray(picture.image), blocks())
    assert picture.notes == ("The EXIF data is damaged; the picture was taken as upright.",)


def test_other_data_in_a_text_chunk_is_not_talked_about() -> None:
    assert in_text(b"APP1", b"http://ns.adobe.com/xap/1.0/\0<x/>".hex().encode()).notes == ()


def test_a_directory_of_very_many_entries_in_a_text_chunk_is_not_read() -> None:
    many = b"II*\0\x08\0\0\0" + (20_000).to_bytes(2, "little") + bytes(12 * 20_000)
    assert "EXIF data is damaged" in in_text(b"exif", (PREFIX + many).hex().encode()).notes[0]


def test_the_colour_space_in_a_text_chunk_is_said() -> None:
    data = Image.Exif()
    data.get_ifd(0x8769)[0xA001] = 65_535
    assert "other than sRGB" in in_text(b"APP1", (PREFIX + data.tobytes().removeprefix(PREFIX)).hex().encode()).notes[0]
