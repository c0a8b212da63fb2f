"""Values of 10, 12 or 14 bits in 16 are noticed, and can be stretched; 16-bit colours lose bits with a word."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.pictures.bit_depth import Stretch
from app.pictures.decode import Limits, decode
from tests.support.pictures import encoded, png
from tests.support.profiles import grey_profile


def grey_16(values: Any) -> Image.Image:
    return Image.fromarray(np.atleast_2d(np.asarray(values, np.uint16)))


def rgb_16_png(colour: np.ndarray) -> bytes:
    """One pixel of 16 bits a channel."""
    return png(1, 1, 16, 2, b"\0" + colour.astype(">u2").tobytes())


def rgb_16_tiff(colour: np.ndarray) -> bytes:
    tags = {
        256: (3, 1, 1),
        257: (3, 1, 1),
        258: (3, 3, 8),
        259: (3, 1, 1),
        262: (3, 1, 2),
        273: (4, 1, 14),
        277: (3, 1, 3),
    }
    tags |= {278: (3, 1, 1), 279: (4, 1, 6)}
    head = b"II*\0" + struct.pack("<L3H", 20, 16, 16, 16)  # the three depths are at 8, the pixel at 14
    entries = b"".join(struct.pack("<HHLL", tag, *entry) for tag, entry in tags.items())
    return head + colour.astype("<u2").tobytes() + struct.pack("<H", len(tags)) + entries + bytes(4)


def decoded(data: bytes, stretch: Stretch = None) -> Any:
    return np.asarray(decode(data, Limits(), stretch=stretch).image)[..., 0].tolist()


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_values_of_fewer_bits_are_noticed(bits: int, format_name: str) -> None:
    data = encoded(grey_16([0, 2**bits // 3, 2**bits - 1]), format_name)
    [note] = decode(data, Limits()).notes
    assert f"{bits} bits only" in note and "`stretch`" in note


@pytest.mark.parametrize("highest", [0, 2**14, 65_535])
def test_values_that_use_their_range_or_are_all_black_are_not_talked_about(highest: int) -> None:
    assert decode(encoded(grey_16([0, highest]), "PNG"), Limits()).notes == ()


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("values", "stretch", "expected"),
    [
        ([0, 2048, 4095], (0, 4095), [0, 128, 255]),
        ([0, 1000, 2000, 3000, 5000], (1000, 3000), [0, 0, 128, 255, 255]),
        ([100, 300, 500], "found", [0, 128, 255]),
        ([7, 7], "found", [0, 0]),
        ([0, 32_768, 65_535], (0, 65_535), [0, 128, 255]),
    ],
)
def test_grey_is_stretched_by_the_rule(values: Any, stretch: Stretch, expected: Any, format_name: str) -> None:
    data = encoded(grey_16(values), format_name)
    assert decoded(data, stretch) == [expected]
    assert decode(data, Limits(), stretch=stretch).notes == ()


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_of_eight_bits_is_stretched_to_its_own_range(mode: str) -> None:
    data = encoded(Image.fromarray(np.array([[50, 100, 150]], np.uint8)).convert(mode), "PNG")
    assert decoded(data, "found") == ([[0, 128, 255]] if mode == "L" else decoded(data))
    assert decoded(data, (0, 255)) == decoded(data)


def test_grey_of_eight_bits_in_a_range_of_twelve_is_said() -> None:
    picture = decode(encoded(Image.new("L", (2, 2), 77), "PNG"), Limits(), stretch=(0, 4095))
    [note] = picture.notes
    assert "0 to 4,095" in note and "8 bits" in note and np.asarray(picture.image)[0, 0, 0] == 77


def test_colours_are_not_stretched() -> None:
    data = encoded(Image.new("RGB", (2, 2), (10, 20, 30)), "PNG")
    assert np.asarray(decode(data, Limits(), stretch="found").image)[0, 0].tolist() == [10, 20, 30]


def test_a_stretched_picture_keeps_its_profile() -> None:
    """A linear profile brightens what was stretched."""
    data = encoded(grey_16([0, 2048, 4095]), "PNG", icc_profile=grey_profile(1.0))
    assert decoded(data, (0, 4095))[0][1] > 180


@pytest.mark.parametrize(("highest", "is_dark"), [(65_535, False), (4095, True)])
@pytest.mark.parametrize("file", [rgb_16_png, rgb_16_tiff])
def test_sixteen_bit_colour_loses_its_low_byte_with_a_word(
    file: Callable[[np.ndarray], bytes], highest: int, is_dark: bool
) -> None:
    [note] = decode(file(np.array([0, highest // 2, highest])), Limits()).notes
    assert "high byte" in note and ("nearly black" in note) is is_dark
