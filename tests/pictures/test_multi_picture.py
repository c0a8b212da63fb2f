"""A JPEG of several pictures is said to be one, and one with a preview or a gain map of its picture is not."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.pictures.decode import Limits, decode
from tests.support.pictures import blocks, encoded

NOTE = "The file holds several pictures; only the first was used."
SHARPEST: dict[str, Any] = {"quality": 100, "subsampling": 0}
LARGE_THUMBNAIL, STEREO = 0x010001, 0x020002  # types of pictures in CIPA DC-007


def several(count: int = 2, kind: int | None = None, **options: Any) -> bytes:
    """A JPEG of several pictures, those behind the first of a kind."""
    pictures = [Image.fromarray(np.roll(blocks(), 8 * place, axis=1)) for place in range(count)]
    data = bytearray(encoded(pictures[0], "MPO", save_all=True, append_images=pictures[1:], **SHARPEST, **options))
    if kind is not None:
        for place in range(1, count):
            struct.pack_into("<L", data, entries_of(data) + 16 * place, kind)
    return bytes(data)


def entries_of(data: bytes | bytearray) -> int:
    """Where the list of pictures stands, in a file of Pillow."""
    block = data.index(b"MPF\0") + 4
    entry = data.index(struct.pack("<HH", 0xB002, 7), block)
    return int(block + struct.unpack_from("<L", data, entry + 8)[0])


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", [None, STEREO])
def test_several_pictures_are_said(count: int, kind: int | None) -> None:
    picture = decode(several(count, kind), Limits())
    assert picture.notes == (NOTE,) and picture.format == "JPEG"
    assert np.abs(np.asarray(picture.image).astype(int) - blocks()).max() <= 2


def test_a_preview_or_a_gain_map_is_no_other_picture() -> None:
    assert decode(several(kind=LARGE_THUMBNAIL), Limits()).notes == ()
    gain_map = b'<rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/>'
    assert decode(several(xmp=gain_map), Limits()).notes == ()
    assert decode(several(xmp=b"<rdf:Description/>"), Limits()).notes == (NOTE,)


def test_one_picture_needs_no_note() -> None:
    assert decode(encoded(Image.fromarray(blocks()), "JPEG"), Limits()).notes == ()


@settings(max_examples=100)
@given(place=st.integers(0, 100), value=st.integers(0, 255))
def test_no_damaged_list_breaks_the_decoder(place: int, value: int) -> None:
    data = bytearray(several())
    data[data.index(b"MPF\0") + place % 86] = value
    assert decode(bytes(data), Limits()).notes in ((), (NOTE,))
