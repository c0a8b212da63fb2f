"""Every kind of PNG becomes the colours on white that the specification says, by its alpha or its transparent colour.

PNG specification (third edition), sections 6.1, 11.3.1.1 and 13.16.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from app.errors import PictureTooLarge, UnreadablePicture
from app.pictures.decode import Limits, decode
from tests.support.pictures import Samples, chunk, encoded, png, png_of

GREY, RGB, INDEXED, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), INDEXED: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
CHANNELS = {GREY: 1, RGB: 3, INDEXED: 1, GREY_ALPHA: 2, RGBA: 4}
KINDS = [(colour_type, depth) for colour_type, depths in DEPTHS.items() for depth in depths]
KEYED = [(colour_type, depth) for colour_type, depth in KINDS if colour_type in (GREY, RGB)]
WHITE_NOTE = "Transparent parts of the picture were taken as white."


def palette(depth: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2**depth, 3))


def samples_of(colour_type: int, depth: int) -> Samples:
    """Samples of which many have the same high byte, and some are 0 or the largest value."""
    rng, most = np.random.default_rng(depth), 2**depth - 1
    samples = rng.integers(0, most, (6, 9, CHANNELS[colour_type]), endpoint=True)
    samples[1] = samples[1, 0] ^ (np.arange(9)[:, None] % 2)  # neighbours of one colour, in the lowest bit
    samples[2], samples[3] = 0, most
    return samples


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Shares of 1 as values from 0 to 255, composed with the full precision of both."""
    return np.asarray(np.rint(255 * (colours * alpha + 1 - alpha)))


def expected(samples: Samples, depth: int, colour_type: int, transparency: np.ndarray | None) -> np.ndarray:
    """`transparency` is the transparent colour, or the alpha of the palette's first colours."""
    most = 2**depth - 1
    alpha = np.ones((*samples.shape[:2], 1))
    if colour_type == INDEXED:
        of_palette = np.full(2**depth, 255)
        if transparency is not None:
            of_palette[: len(transparency)] = transparency
        return on_white(palette(depth)[samples[..., 0]] / 255, of_palette[samples] / 255)
    if colour_type in (GREY_ALPHA, RGBA):
        alpha, samples = samples[..., -1:] / most, samples[..., :-1]
    elif transparency is not None:
        alpha = 1.0 - (samples == transparency).all(axis=-1, keepdims=True)
    return np.broadcast_to(on_white(samples / most, alpha), (*alpha.shape[:2], 3))


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, Limits()).image).astype(int)


def colours_of(depth: int, colour_type: int) -> list[bytes]:
    return [chunk(b"PLTE", palette(depth).astype(np.uint8).tobytes())] if colour_type == INDEXED else []


def differences(got: np.ndarray, wanted: np.ndarray, depth: int) -> int:
    """The largest difference beyond what 8 bits must lose: of 16 bits only the high byte of colours is read."""
    return int(np.abs(got - wanted).max()) - (1 if depth == 16 else 0)


@pytest.mark.parametrize(("colour_type", "depth"), KINDS)
def test_every_colour_type_and_depth_is_read(colour_type: int, depth: int) -> None:
    samples = samples_of(colour_type, depth)
    got = decoded(png_of(samples, depth, colour_type, *colours_of(depth, colour_type)))
    tolerance = 1 if colour_type in (GREY_ALPHA, RGBA) else 0  # alpha is rounded to 8 bits
    assert differences(got, expected(samples, depth, colour_type, None), depth) <= tolerance


def test_deep_grey_with_alpha_is_read_through_filters_of_rows() -> None:
    """Pillow filters RGBA of 8 bits, whose pixels have as many bytes. Only the header differs."""
    pixels = np.sort(np.random.default_rng(0).integers(0, 256, (30, 30, 4), np.uint8), axis=0)
    whole = encoded(Image.fromarray(pixels), "PNG")
    header = whole[16:24] + bytes((16, GREY_ALPHA)) + whole[26:29]
    samples = pixels.view(">u2").astype(int)
    got = decoded(whole[:8] + chunk(b"IHDR", header) + whole[33:])
    assert np.abs(got - expected(samples, 16, GREY_ALPHA, None)).max() <= 1


@pytest.mark.parametrize("place", [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0)], ids=str)
@pytest.mark.parametrize(("colour_type", "depth"), KEYED)
def test_one_colour_is_transparent(colour_type: int, depth: int, place: tuple[int, int]) -> None:
    samples = samples_of(colour_type, depth)
    colour = samples[place]
    data = png_of(samples, depth, colour_type, chunk(b"tRNS", colour.astype(">u2").tobytes()))
    got, wanted = decoded(data), expected(samples, depth, colour_type, colour)
    assert differences(got, wanted, depth) <= 0
    assert WHITE_NOTE in decode(data, Limits()).notes
    assert (got[(samples == colour).all(axis=-1)] == 255).all()


@pytest.mark.parametrize(("colour_type", "depth"), KEYED)
def test_a_transparent_colour_that_no_pixel_has_changes_nothing(colour_type: int, depth: int) -> None:
    samples = np.zeros((3, 3, CHANNELS[colour_type]), int)
    absent = np.full(CHANNELS[colour_type], 2**depth - 1)
    absent[1:] = 0  # the high byte of one sample alone differs
    data = png_of(samples, depth, colour_type, chunk(b"tRNS", absent.astype(">u2").tobytes()))
    assert (decoded(data) == 0).all() and WHITE_NOTE not in decode(data, Limits()).notes


@pytest.mark.parametrize("alphas", [[0], [255, 0], [10, 200, 0, 255], [255] * 2], ids=str)
@pytest.mark.parametrize("depth", DEPTHS[INDEXED])
def test_colours_of_a_palette_are_transparent(depth: int, alphas: list[int]) -> None:
    samples, alpha = samples_of(INDEXED, depth), np.array(alphas[: 2**depth])
    data = png_of(samples, depth, INDEXED, *colours_of(depth, INDEXED), chunk(b"tRNS", alpha.astype("u1").tobytes()))
    assert np.abs(decoded(data) - expected(samples, depth, INDEXED, alpha)).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_only_the_low_bits_of_the_transparent_colour_count(depth: int) -> None:
    samples = np.array([[[0], [1]]])
    data = png_of(samples, depth, GREY, chunk(b"tRNS", struct.pack(">H", 0xFF00 & ~(2**depth - 1))))
    assert decoded(data)[0, 0].tolist() == [255] * 3 and WHITE_NOTE in decode(data, Limits()).notes
    assert decoded(data)[0, 1].tolist() == [255 // (2**depth - 1)] * 3


def test_a_transparent_colour_of_48_bits_is_looked_for_in_every_row_of_a_large_picture() -> None:
    """Rows are compared in bands, with little memory."""
    samples = np.full((1100, 1000, 3), (300, 400, 500))
    samples[::7] = (300, 400, 501)
    data = png_of(samples, 16, RGB, chunk(b"tRNS", struct.pack(">3H", 300, 400, 500)))
    got = decoded(data)[:, 0, 0]
    assert (got[::7] == 1).all() and (np.delete(got, np.s_[::7]) == 255).all()


def test_a_picture_that_is_decoded_in_two_passes_may_have_half_the_pixels() -> None:
    samples, limits = np.zeros((10, 10, 3), int), Limits(max_full_pixels=150)
    keyed = png_of(samples, 16, RGB, chunk(b"tRNS", bytes(6)))
    assert decode(png_of(samples, 16, RGB), limits).image.size == (10, 10)
    with pytest.raises(PictureTooLarge, match=r"16-bit colours, of which one is transparent.*7\.5e-05 million"):
        decode(keyed, limits)
    assert decode(keyed, Limits(max_full_pixels=200)).image.size == (10, 10)


def test_a_transparent_colour_behind_the_pixels_or_cut_off_is_not_used() -> None:
    pixels, key = chunk(b"IDAT", zlib.compress(b"\0\7")), chunk(b"tRNS", struct.pack(">H", 7))
    head = png(1, 1, 8, GREY, b"")[:33]
    assert decoded(head + key + pixels + chunk(b"IEND", b"")).max() == 255
    assert decoded(head + pixels + key + chunk(b"IEND", b"")).max() == 7
    with pytest.raises(UnreadablePicture, match="damaged"):
        decode(head + chunk(b"tRNS", b"\0") + pixels + chunk(b"IEND", b""), Limits())


def test_a_header_that_is_not_first_is_damage() -> None:
    whole = png_of(np.full((2, 2, 2), 40_000), 16, GREY_ALPHA)
    with pytest.raises(UnreadablePicture, match="damaged"):
        decode(whole[:8] + chunk(b"tEXt", b"a\0b") + whole[8:], Limits())
