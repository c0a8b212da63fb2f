"""Values that use little of their range are noticed, and 16-bit colours lose bits with a word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.pictures.bit_depth import Stretch
from app.pictures.decode import Limits, decode
from tests.support.pictures import chunk, encoded, png_of
from tests.support.tiff_file import Storage, tiff_file


def grey_16(values: Any) -> Image.Image:
    return Image.fromarray(np.atleast_2d(np.asarray(values, np.uint16)))


def decoded(data: bytes, stretch: Stretch = None) -> Any:
    return np.asarray(decode(data, Limits(), stretch=stretch).image)[..., 0].tolist()


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_values_of_fewer_bits_are_noticed(bits: int, format_name: str) -> None:
    data = encoded(grey_16([0, 2**bits // 3, 2**bits - 1]), format_name)
    [note] = decode(data, Limits()).notes
    assert f"{bits} bits only" in note and "`stretch`" in note


def speckled(values: np.ndarray, share: float, value: int) -> np.ndarray:
    """The values with a share of them set to another, at least one."""
    changed = values.copy().ravel()
    changed[:: max(1, int(1 / share))] = value
    return changed.reshape(values.shape)


def white_is_zero(values: np.ndarray) -> bytes:
    return tiff_file(values[..., None], Storage(photometric=0, bits=16))


TWELVE_BITS = np.random.default_rng(0).integers(0, 4096, (64, 64))
SPECKS = {
    "a hot pixel": (1e-4, 65_535),
    "a hot pixel that is not saturated": (1e-4, 60_000),
    "letters that are burned in": (0.03, 65_535),
}


@pytest.mark.parametrize(("share", "value"), SPECKS.values(), ids=SPECKS)
def test_a_few_bright_pixels_do_not_hide_that_the_rest_is_dark(share: float, value: int) -> None:
    values = speckled(TWELVE_BITS, share, value)
    for data in (png_of(values[..., None], 16, 0), encoded(grey_16(values), "TIFF")):
        [note] = decode(data, Limits()).notes
        assert "12 bits only" in note and "nearly black" in note
    colours = np.repeat(values[..., None], 3, axis=-1)
    for alpha in ((), np.full((64, 64, 1), 65_535)):
        samples = np.concatenate([colours, alpha], axis=-1) if len(alpha) else colours
        [note] = decode(png_of(samples, 16, 6 if len(alpha) else 2), Limits()).notes
        assert "nearly black" in note


def test_values_that_count_from_white_are_nearly_white() -> None:
    for values in (TWELVE_BITS, speckled(TWELVE_BITS, 1e-4, 65_535), speckled(TWELVE_BITS, 1e-4, 60_000)):
        [note] = decode(white_is_zero(values), Limits()).notes
        assert "12 bits only" in note and "nearly white" in note
        assert np.median(decoded(white_is_zero(values))) > 240
        [note] = decode(white_is_zero(65_535 - values), Limits()).notes
        assert "12 bits only" in note and "nearly black" in note
        assert np.median(decoded(white_is_zero(65_535 - values))) < 15


def test_small_amounts_of_ink_are_nearly_white() -> None:
    few_inks = np.repeat(TWELVE_BITS[..., None], 4, axis=-1)
    [note, _] = decode(tiff_file(few_inks, Storage(photometric=5, bits=16)), Limits()).notes
    assert "nearly white" in note


HONEST = {
    "a night with lights": np.concatenate([TWELVE_BITS, np.geomspace(4096, 65_000, 64 * 4).reshape(4, 64)]),
    "a long tail": np.clip(np.random.default_rng(1).exponential(8000, (64, 64)), 0, 65_535),
    "one part in the sun": np.where(np.arange(64) < 6, 65_535, TWELVE_BITS),
    "black and white": np.where(TWELVE_BITS < 100, 65_535, 0),
    "black but for one pixel": np.where(np.arange(64 * 64).reshape(64, 64) == 9, 65_535, 0),
}


@pytest.mark.parametrize("values", HONEST.values(), ids=HONEST)
def test_an_honest_dark_picture_is_not_talked_about(values: np.ndarray) -> None:
    values = values.astype(int)
    assert decode(encoded(grey_16(values), "PNG"), Limits()).notes == ()
    assert decode(white_is_zero(65_535 - values), Limits()).notes == ()


def test_what_is_transparent_does_not_count() -> None:
    values = np.where(np.arange(64) < 32, 65_535, TWELVE_BITS)
    grey = values[..., None]
    keyed = png_of(grey, 16, 0, chunk(b"tRNS", b"\xff\xff"))
    with_alpha = png_of(np.concatenate([grey, np.where(grey == 65_535, 0, 65_535)], axis=-1), 16, 4)
    for data in (keyed, with_alpha):
        range_note, white_note = decode(data, Limits()).notes
        assert "12 bits only" in range_note and "taken as white" in white_note
        seen = np.asarray(decoded(data, "found"))
        assert (seen[:, :32] == 255).all() and seen[:, 32:].min() == 0 and seen[:, 32:].max() == 255


@pytest.mark.parametrize("highest", [0, 2**14, 65_535])
def test_values_that_use_their_range_or_are_all_black_are_not_talked_about(highest: int) -> None:
    assert decode(encoded(grey_16([0, highest]), "PNG"), Limits()).notes == ()


@pytest.mark.parametrize("depth", [8, 16])
def test_a_gamma_without_a_profile_is_said_of_grey_of_any_depth(depth: int) -> None:
    data = png_of(np.full((2, 2, 1), 100), depth, 0, chunk(b"gAMA", (100_000).to_bytes(4, "big")))
    assert "gamma of 1" in decode(data, Limits()).notes[-1]


@pytest.mark.parametrize(("highest", "is_dark"), [(65_535, False), (4095, True)])
@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_sixteen_bit_colour_loses_its_low_byte_with_a_word(format_name: str, highest: int, is_dark: bool) -> None:
    colour = np.array([[[0, highest // 2, highest]]])
    data = png_of(colour, 16, 2) if format_name == "PNG" else tiff_file(colour, Storage(photometric=2, bits=16))
    [note] = decode(data, Limits()).notes
    assert "high byte" in note and ("nearly black" in note) is is_dark
