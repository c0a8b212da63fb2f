"""A TIFF of any layout becomes the pixels that the specification says, or is refused by what its layout is.

TIFF 6.0, sections 4 to 6, 8, 16, 18, 19 and 21. No layout that is merely not supported is called damaged.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.errors import FusionLensError, UnreadablePicture
from app.pictures.decode import Limits, decode
from tests.support.pictures import Samples, encoded
from tests.support.tiff_file import DEFLATE, Storage, tiff_file

WHITE_IS_0, BLACK_IS_0, RGB, PALETTE, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8
COLOURS = {WHITE_IS_0: 1, BLACK_IS_0: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}  # samples of a pixel
UNSPECIFIED, PREMULTIPLIED, ALPHA = 0, 1, 2
DEPTHS = (1, 2, 4, 8, 12, 16)
MAX_PALETTE_BITS = 12  # for this test; colour maps of more are refused like these
TOLERANCE = 3  # in levels of 255: alpha of 8 bits, and YCbCr in whole numbers


def colour_map(bits: int) -> np.ndarray:
    return np.random.default_rng(bits).integers(0, 2**16, (2 ** min(bits, MAX_PALETTE_BITS), 3))


def stored(photometric: int, **options: object) -> Storage:
    """A layout with the tags that its colours need."""
    layout = replace(Storage(photometric), **options)  # type: ignore[arg-type]
    if photometric == PALETTE:
        return replace(layout, tags=((320, tuple(colour_map(layout.bits).T.ravel().tolist())),))
    return replace(layout, tags=((530, (1, 1)),)) if photometric == YCBCR else layout


def samples_of(layout: Storage) -> Samples:
    colours, bits = COLOURS[layout.photometric], layout.bits
    largest = 2 ** (min(bits, MAX_PALETTE_BITS) if layout.photometric == PALETTE else bits) - 1
    samples = np.random.default_rng(7).integers(0, largest, (4, 5, colours + len(layout.extra)), endpoint=True)
    samples[0] = np.linspace(0, largest, 5).round().astype(int)[:, None]
    if layout.extra[:1] == (PREMULTIPLIED,):
        samples[..., :colours] = np.minimum(samples[..., :colours], samples[..., colours:])
    return samples


def expected(samples: Samples, layout: Storage) -> np.ndarray:
    """The colours on white, from 0 to 255."""
    colours = COLOURS[layout.photometric]
    shares = samples / (2**layout.bits - 1)
    first = shares[..., :1]
    if layout.photometric in (WHITE_IS_0, BLACK_IS_0):
        rgb = np.repeat(first if layout.photometric == BLACK_IS_0 else 1 - first, 3, axis=-1)
    elif layout.photometric == PALETTE:
        rgb = colour_map(layout.bits)[samples[..., 0]] / 65_535
    elif layout.photometric == CMYK:
        rgb = (1 - shares[..., :3]) * (1 - shares[..., 3:4])
    elif layout.photometric == YCBCR:
        blue, red = shares[..., 1:2] - 128 / 255, shares[..., 2:3] - 128 / 255
        rgb = np.concatenate([first + 1.402 * red, first - 0.344 * blue - 0.714 * red, first + 1.772 * blue], axis=-1)
    else:
        rgb = shares[..., :3]
    rgb, alpha = np.clip(rgb, 0, 1), shares[..., colours : colours + 1]
    if layout.extra[:1] == (ALPHA,):
        rgb = rgb * alpha + 1 - alpha
    elif layout.extra[:1] == (PREMULTIPLIED,):
        rgb = rgb + 1 - alpha
    return np.asarray(255 * rgb)


def layouts() -> Iterator[Storage]:
    for photometric, bits, big_endian in itertools.product(COLOURS, DEPTHS, (False, True)):
        if photometric == PALETTE and bits > 8:
            continue  # its colour map is long; see `NAMED`
        of_depth = stored(photometric, bits=bits, big_endian=big_endian)
        for compression, planar, extra in itertools.product(
            (1, DEFLATE), (1, 2), ((), (0,), (1,), (2,), (0, 0), (2, 0))
        ):
            yield replace(of_depth, compression=compression, planar=planar, extra=extra)
        for compression in (1, DEFLATE):
            yield replace(of_depth, compression=compression, fill_order=2)


def outcome(layout: Storage) -> str:
    """`read` for the right pixels, a refusal, or what is wrong."""
    samples = samples_of(layout)
    try:
        got = np.asarray(decode(tiff_file(samples, layout), Limits()).image).astype(int)
    except UnreadablePicture as error:
        return "refused" if "is not supported: " in str(error) and "damaged" not in str(error) else str(error)
    difference = np.abs(got - expected(samples, layout)).max()
    return "read" if difference <= TOLERANCE else f"wrong by {difference:.0f}"


def test_any_layout_is_read_right_or_refused_by_name() -> None:
    outcomes = {layout: outcome(layout) for layout in layouts()}
    assert {layout: result for layout, result in outcomes.items() if result not in ("read", "refused")} == {}
    assert sum(result == "read" for result in outcomes.values()) > 250  # what was read stays so


def test_samples_that_no_tag_explains_are_ignored_or_refused() -> None:
    """They are no alpha: where they are 0, the picture would be white."""
    outcomes = {}
    for photometric, bits, compression, planar in itertools.product(COLOURS, (8, 16), (1, DEFLATE), (1, 2)):
        layout = stored(photometric, bits=bits, compression=compression, planar=planar, extra=(UNSPECIFIED,))
        outcomes[layout] = outcome(replace(layout, tags=(*layout.tags, (338, None))))
    assert {*outcomes.values()} <= {"read", "refused"}, outcomes
    assert all(outcomes[Storage(RGB, bits=bits, extra=(UNSPECIFIED,))] == "read" for bits in (8, 16))


@pytest.mark.parametrize(
    "layout",
    [
        *(stored(photometric, bits=bits) for photometric in (WHITE_IS_0, BLACK_IS_0, PALETTE) for bits in (1, 2, 4, 8)),
        *(stored(BLACK_IS_0, bits=16, big_endian=big_endian, compression=8) for big_endian in (False, True)),
        *(stored(photometric, bits=bits) for photometric in (RGB, CMYK) for bits in (8, 16)),
        stored(WHITE_IS_0, bits=16),
        stored(BLACK_IS_0, bits=12),
        stored(RGB, bits=16, planar=2, compression=DEFLATE),
        *(stored(RGB, planar=2, extra=extra) for extra in ((), (ALPHA,))),
        *(stored(BLACK_IS_0, extra=(extra,)) for extra in (UNSPECIFIED, PREMULTIPLIED, ALPHA)),
    ],
    ids=str,
)
def test_usual_layouts_are_read(layout: Storage) -> None:
    assert outcome(layout) == "read"


NAMED = {
    "8-bit signed values": Storage(sample_format=2),
    "16-bit signed values": Storage(sample_format=2, bits=16),
    "32-bit signed values": Storage(sample_format=2, bits=32),
    "RGB colours with 8-bit signed values": Storage(RGB, sample_format=2),
    "16-bit floating-point values": Storage(sample_format=3, bits=16),
    "24-bit floating-point values": Storage(sample_format=3, bits=24),
    "32-bit floating-point values": Storage(sample_format=3, bits=32),
    "64-bit floating-point values": Storage(sample_format=3, bits=64),
    "8-bit values of no known kind": Storage(sample_format=4),
    "32-bit complex values": Storage(sample_format=5, bits=32),
    "64-bit complex values": Storage(sample_format=6, bits=64),
    "10-bit values": Storage(bits=10),
    "14-bit values": Storage(bits=14),
    "24-bit values": Storage(bits=24),
    "32-bit values": Storage(bits=32),
    "RGB colours with 10-bit values": Storage(RGB, bits=10),
    "RGB colours with 5-bit and 6-bit values": Storage(RGB, tags=((258, (5, 6, 5)),)),
    "where 0 is white with 12-bit values": Storage(WHITE_IS_0, bits=12),
    "palette colours with 16-bit values": stored(PALETTE, bits=16),
    "16-bit values in planes": Storage(RGB, bits=16, planar=2),
    "where 0 is white with 8-bit values in planes": Storage(WHITE_IS_0, planar=2),
    "8-bit values in reversed bits": Storage(WHITE_IS_0, fill_order=2),
    "1 more in each pixel": Storage(CMYK, extra=(ALPHA,)),
    "4 more in each pixel": Storage(extra=(UNSPECIFIED,) * 4),
    "subsampled YCbCr": Storage(YCBCR),
    "a transparency mask": Storage(4),
    "CIELAB": Storage(CIELAB),
    "ICC LAB": Storage(9),
    "LogL": Storage(32844, bits=16),
    "LogLuv": Storage(32845),
    "linear raw": Storage(34892, bits=16),
    "a sensor's pattern": Storage(32803, bits=16),
    "colours of kind 99": Storage(99),
    "does not say whether 0 is black or white": Storage(tags=((262, None),)),
    "JPEG 2000": Storage(compression=33003),
    "LERC": Storage(compression=34887),
    "method 9999": Storage(compression=9999),
}


@pytest.mark.parametrize(("name", "layout"), NAMED.items(), ids=NAMED)
def test_what_is_not_supported_is_named_with_advice(name: str, layout: Storage) -> None:
    count = COLOURS.get(layout.photometric, 3 if layout.photometric in (CIELAB, 9, 10, 32845, 34892) else 1)
    samples = np.full((2, 3, count + len(layout.extra)), -3 if layout.sample_format == 2 else 5)
    with pytest.raises(UnreadablePicture, match=r"is not supported: (convert|save|scale) ") as caught:
        decode(tiff_file(samples, layout), Limits())
    assert name in str(caught.value) and "damaged" not in str(caught.value)


def test_damage_of_another_tag_does_not_hide_what_the_values_are() -> None:
    """Pillow leaves out what lies outside of the file, and reads the rest."""
    whole = tiff_file(np.full((2, 3, 1), -3), Storage(sample_format=2, tags=((301, tuple(range(8))),)))
    place = whole.index(struct.pack("<HHL", 301, 3, 8)) + 8
    with pytest.raises(UnreadablePicture, match="8-bit signed values"):
        decode(whole[:place] + struct.pack("<L", 2**31) + whole[place + 4 :], Limits())


@pytest.mark.parametrize("name", ["zstd", "lzma", "webp", "thunderscan", "jpeg"])
def test_a_compression_that_may_be_missing_is_named(name: str) -> None:
    numbers = {"zstd": 50_000, "lzma": 34_925, "webp": 50_001, "thunderscan": 32_809, "jpeg": 6}
    with pytest.raises(UnreadablePicture, match=rf"its compression, {name}, is not supported\. Save it"):
        decode(tiff_file(np.zeros((2, 3, 1), int), Storage(compression=numbers[name])), Limits())


def test_pixels_that_are_not_there_are_damage() -> None:
    whole = tiff_file(np.zeros((200, 300, 1), int), Storage(tags=((273, 2**20),)))
    with pytest.raises(UnreadablePicture, match="damaged or cut off"):
        decode(whole, Limits())


@given(
    layout=st.sampled_from([stored(photometric, bits=8) for photometric in COLOURS] + [Storage(bits=16, extra=(2,))]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
@settings(max_examples=200, derandomize=True, database=None, deadline=None)
def test_any_change_of_a_directory_ends_in_a_picture_or_an_error_of_ours(
    layout: Storage, changes: list[tuple[float, int]], kept: float
) -> None:
    data = bytearray(tiff_file(np.ones((2, 3, COLOURS[layout.photometric] + len(layout.extra)), int), layout))
    directory = struct.unpack_from("<L", data, 4)[0]
    for share, byte in changes:
        data[directory + int(share * min(len(data) - directory, 200))] = byte
    with suppress(FusionLensError):
        decode(bytes(data[: 8 + int(kept * (len(data) - 8))]), Limits(max_pixels=1_000_000))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_colour_map_of_bytes_is_read_as_such(bits: int) -> None:
    """Some programs write it from 0 to 255, where the specification says 0 to 65,535."""
    colours = np.random.default_rng(2).integers(0, 256, (2**bits, 3))
    layout = Storage(PALETTE, bits=bits, tags=((320, tuple(colours.T.ravel().tolist())),))
    samples = samples_of(layout)
    assert np.array_equal(np.asarray(decode(tiff_file(samples, layout), Limits()).image), colours[samples[..., 0]])


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_within_a_tiff_is_read(mode: str) -> None:
    shades = Image.linear_gradient("L").resize((64, 64)).convert("RGB").convert(mode)
    got = np.asarray(decode(encoded(shades, "TIFF", compression="jpeg", quality=95), Limits()).image).astype(int)
    assert np.abs(got - np.asarray(shades.convert("RGB"))).max() <= 8
