"""A bundle's rule for grey values applies to every grey picture, however it is stored, and to no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.pictures.bit_depth import Stretch
from app.pictures.decode import Limits, decode
from tests.support.pictures import chunk, encoded, png_of
from tests.support.profiles import SRGB_PRIMARIES, grey_profile, rgb_profile
from tests.support.tiff_file import Storage, tiff_file


def grey_16(values: Any) -> Image.Image:
    return Image.fromarray(np.atleast_2d(np.asarray(values, np.uint16)))


def decoded(data: bytes, stretch: Stretch = None) -> Any:
    return np.asarray(decode(data, Limits(), stretch=stretch).image)[..., 0].tolist()


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


SHADES = np.array([[50, 77, 100, 150]], np.uint8)
LEVELS: list[tuple[Stretch, list[int]]] = [
    (None, [50, 77, 100, 150]),
    ("found", [0, 69, 128, 255]),
    ((0, 200), [64, 98, 128, 191]),
    ((60, 110), [0, 87, 204, 255]),
    ((0, 255), [50, 77, 100, 150]),
]


def grey_files() -> dict[str, bytes]:
    """The same grey picture in many forms."""
    grey = Image.fromarray(SHADES)
    files = {f"{mode} PNG": encoded(grey.convert(mode), "PNG") for mode in ("L", "LA", "RGB", "RGBA", "P")}
    files |= {f"RGB {name}": encoded(grey.convert("RGB"), name) for name in ("BMP", "TIFF", "GIF")}
    files |= {f"L {name}": encoded(grey, name) for name in ("BMP", "TIFF", "GIF")}
    files["WebP"] = encoded(grey.convert("RGB"), "WEBP", lossless=True)
    values, opaque = SHADES[..., None].astype(int), np.full((1, 4, 1), 255)
    rgb = np.repeat(values, 3, axis=-1)
    files["TIFF, 0 is white"] = tiff_file(255 - values, Storage(photometric=0))
    files["TIFF in planes"] = tiff_file(rgb, Storage(photometric=2, planar=2))
    files["TIFF with premultiplied alpha"] = tiff_file(np.concatenate([values, opaque], -1), Storage(extra=(1,)))
    files["TIFF of a palette"] = encoded(grey.convert("P"), "TIFF")
    neutral = np.full_like(rgb[..., :2], 128)
    ycbcr = Storage(photometric=6, tags=((530, (1, 1)),))
    files["TIFF of YCbCr"] = tiff_file(np.concatenate([values, neutral], -1), ycbcr)
    srgb = rgb_profile(SRGB_PRIMARIES)
    return files | {
        f"{mode} PNG with a profile": encoded(grey.convert(mode), "PNG", icc_profile=srgb)
        for mode in ("RGB", "RGBA", "P")
    }


@pytest.mark.parametrize("name", grey_files())
def test_grey_of_eight_bits_is_stretched_however_it_is_stored(name: str) -> None:
    data = grey_files()[name]
    for stretch, levels in LEVELS:
        picture = decode(data, Limits(), stretch=stretch)
        assert np.asarray(picture.image)[0].tolist() == [[level] * 3 for level in levels]
        assert picture.notes == ()
    picture = decode(data, Limits(), stretch=(0, 4095))
    [note] = picture.notes
    assert "0 to 4,095" in note and "8 bits" in note and np.asarray(picture.image)[0, 1].tolist() == [77] * 3


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", [{"quality": 30}, {"quality": 95}], ids=str)
@pytest.mark.parametrize("format_name", ["JPEG", "WEBP", "AVIF"])
def test_grey_of_a_lossy_format_is_stretched(format_name: str, options: dict[str, int], mode: str) -> None:
    """Decoders of WebP give grey with differences of a level between its channels."""
    ramp = Image.fromarray(np.linspace(60, 120, 64).round().astype(np.uint8)[None].repeat(64, axis=0)).convert(mode)
    got = np.asarray(
        decode(encoded(ramp, format_name, **options), Limits(formats=(format_name,)), stretch="found").image
    )
    assert got.min() == 0 and got.max() == 255 and (np.ptp(got, axis=-1) == 0).all()


def test_two_levels_stay_as_they_are() -> None:
    data = encoded(Image.fromarray(SHADES).convert("1"), "PNG")
    assert decoded(data, "found") == decoded(data)


def deep_files(values: Any) -> dict[str, bytes]:
    """Values of 16 bits as greyscale in several forms."""
    grey = np.asarray(values)[None, :, None]
    opaque = np.full_like(grey, 65_535)
    return {
        "PNG": png_of(grey, 16, 0),
        "PNG with alpha": png_of(np.concatenate([grey, opaque], axis=-1), 16, 4),
        "PNG with a transparent value": png_of(grey, 16, 0, chunk(b"tRNS", b"\0\x01")),
        "TIFF": tiff_file(grey, Storage(bits=16)),
        "TIFF, big endian": tiff_file(grey, Storage(bits=16, big_endian=True)),
        "TIFF, compressed": tiff_file(grey, Storage(bits=16, compression=8)),
    }


@pytest.mark.parametrize("name", deep_files([0]))
def test_grey_of_sixteen_bits_is_stretched_however_it_is_stored(name: str) -> None:
    for stretch, levels in [
        ((0, 4095), [0, 128, 135, 255]),
        ("found", [0, 128, 135, 255]),
        ((2048, 2175), [0, 0, 225, 255]),
    ]:
        picture = decode(deep_files([0, 2048, 2160, 4095])[name], Limits(), stretch=stretch)  # type: ignore[arg-type]
        assert np.asarray(picture.image)[0].tolist() == [[level] * 3 for level in levels] and picture.notes == ()


@pytest.mark.parametrize("alpha", [False, True], ids=["RGB", "RGBA"])
@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_grey_as_sixteen_bit_colours_is_stretched_coarsely_with_a_word(format_name: str, alpha: bool) -> None:
    values = np.array([0, 1000, 2048, 4095])[None, :, None]
    samples = np.concatenate([np.repeat(values, 3, -1), *([np.full_like(values, 65_535)] if alpha else [])], axis=-1)
    tiff = Storage(photometric=2, bits=16, extra=(2,) if alpha else ())
    data = png_of(samples, 16, 6 if alpha else 2) if format_name == "PNG" else tiff_file(samples, tiff)
    picture = decode(data, Limits(), stretch=(0, 4095))
    [note] = picture.notes
    assert "high byte" in note and "0 to 4,095" in note and "at most 16" in note and "16-bit greyscale" in note
    assert np.abs(np.asarray(picture.image)[0, :, 0].astype(int) - [0, 62, 128, 255]).max() <= 17
    [note] = decode(data, Limits(), stretch="found").notes
    assert "at most 16" in note
    coloured = samples.copy()
    coloured[..., 0] = 0
    [note] = decode(png_of(coloured, 16, 6 if alpha else 2), Limits(), stretch=(0, 4095)).notes
    assert "greyscale" not in note


def test_hidden_colours_do_not_make_a_grey_picture_coloured() -> None:
    """The transparent colour of a palette is often a loud one."""
    rgba = np.array([[[50] * 3 + [255], [150] * 3 + [255], [255, 0, 255, 0]]], np.uint8)
    loud = Image.fromarray(rgba)
    palette = Image.new("P", (3, 1))
    palette.putpalette([50, 50, 50, 150, 150, 150, 255, 0, 255])
    palette.putdata([0, 1, 2])
    files = [encoded(loud, "PNG"), encoded(loud, "TIFF"), encoded(loud, "WEBP", lossless=True, exact=True)]
    for data in (*files, encoded(palette, "PNG", transparency=2), encoded(palette, "GIF", transparency=2)):
        assert decoded(data, "found") == [[0, 255, 255]]
    assert decoded(encoded(palette, "PNG"), "found") == [[50, 150, 255]]


def test_a_picture_with_one_coloured_pixel_is_no_grey_picture() -> None:
    pixels = np.full((2000, 700, 3), 90, np.uint8)
    pixels[-1, -1, 2] = 92
    for data in (encoded(Image.fromarray(pixels), "PNG"), encoded(Image.fromarray(pixels).convert("RGBA"), "PNG")):
        assert decoded(data, (0, 100))[0][0] == 90
    pixels[-1, -1, 2] = 91  # a rounding
    assert decoded(encoded(Image.fromarray(pixels), "PNG"), (0, 100))[0][0] == 230


def test_nothing_visible_is_white_under_any_rule() -> None:
    clear = np.zeros((2, 3, 2), int)
    for stretch, _ in LEVELS:
        for data in (png_of(clear, 8, 4), png_of(clear, 16, 4), encoded(Image.new("RGBA", (3, 2)), "PNG")):
            assert np.min(decoded(data, stretch)) == 255


def test_colours_are_not_stretched() -> None:
    data = encoded(Image.new("RGB", (2, 2), (10, 20, 30)), "PNG")
    assert np.asarray(decode(data, Limits(), stretch="found").image)[0, 0].tolist() == [10, 20, 30]


def test_a_stretched_picture_keeps_its_profile() -> None:
    """A linear profile brightens what was stretched."""
    data = encoded(grey_16([0, 2048, 4095]), "PNG", icc_profile=grey_profile(1.0))
    assert decoded(data, (0, 4095))[0][1] > 180
