"""Colours are those that the picture's profile says, whatever its mode and format, or the sender is told."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.files import DEMO_BUNDLE
from app.pictures.colour import MAX_PROFILE_BYTES
from app.pictures.decode import Limits, TargetSizes, decode
from app.predicting.predictor import Predictor
from tests.support.pictures import Rgb, blocks, chunk, encoded, png, png_of
from tests.support.profiles import (
    ADOBE_PRIMARIES,
    P3_PRIMARIES,
    SRGB_PRIMARIES,
    grey_profile,
    ink_profile,
    rgb_profile,
    to_xyz,
)

LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"lossless": True, "exact": True}, "TIFF": {}}
SHARPEST_JPEG = {"quality": 100, "subsampling": 0}
P3 = rgb_profile(P3_PRIMARIES)
INKS = [(95, 0, 0), (20, 0, 0), (90, -5, 90), (15, 0, 10), (50, 70, -5), (15, 10, 0), (48, 65, 45), (14, 8, 5)]
INKS += [(55, -35, -50), (15, -5, -8), (50, -65, 27), (14, -8, 4), (25, 20, -45), (12, 2, -6), (23, 0, 0), (10, 0, 0)]


def to_linear(values: np.ndarray, gamma: float | None = None) -> np.ndarray:
    """Light of values from 0 to 255, by a power or by the curve of sRGB."""
    shares = values / 255
    if gamma:
        return np.asarray(shares**gamma)
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def from_linear(light: np.ndarray, gamma: float | None = None) -> np.ndarray:
    light = np.clip(light, 0, 1)
    shares = light ** (1 / gamma) if gamma else np.where(
        light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055
    )  # fmt: skip
    return np.rint(shares * 255).astype(np.uint8)


def as_stored(srgb: Rgb, primaries: Any, gamma: float | None) -> Rgb:
    """The values of sRGB colours in another colour space of the same white point."""
    light = to_linear(srgb) @ (np.linalg.inv(to_xyz(primaries)) @ to_xyz(SRGB_PRIMARIES)).T
    return from_linear(light, gamma)


def difference(data: bytes, expected: Any) -> int:
    got = np.asarray(decode(data, Limits()).image).astype(int)
    return int(np.abs(got - np.asarray(expected).astype(int)).max())


@pytest.mark.parametrize("format_name", ["JPEG", *LOSSLESS])
@pytest.mark.parametrize(
    ("primaries", "gamma"),
    [(P3_PRIMARIES, None), (ADOBE_PRIMARIES, 2.2), (SRGB_PRIMARIES, 1.0)],
    ids=["P3", "Adobe", "linear"],
)
def test_colours_of_a_profile_become_srgb(format_name: str, primaries: Any, gamma: float | None) -> None:
    stored = Image.fromarray(as_stored(blocks(), primaries, gamma))
    options = LOSSLESS.get(format_name, SHARPEST_JPEG)
    data = encoded(stored, format_name, icc_profile=rgb_profile(primaries, gamma), **options)
    tolerance = 8 if gamma == 1.0 else 2  # of linear light, eight bits hold dark colours coarsely
    assert difference(data, blocks()) <= tolerance + 3 * (format_name == "JPEG")
    assert decode(data, Limits()).notes == ()


def kinds_of_p3() -> list[tuple[str, bytes, Rgb]]:
    stored = Image.fromarray(as_stored(blocks(), P3_PRIMARIES, None))
    rgba = stored.copy()
    rgba.putalpha(Image.fromarray(np.where(np.arange(24) < 8, 0, 255).astype(np.uint8)[None].repeat(16, axis=0)))
    on_white = blocks()
    on_white[:, :8] = 255
    palette = stored.quantize(8, dither=Image.Dither.NONE)
    return [
        ("RGBA PNG", encoded(rgba, "PNG", icc_profile=P3), on_white),
        ("RGBA WebP", encoded(rgba, "WEBP", icc_profile=P3, **LOSSLESS["WEBP"]), on_white),
        ("palette PNG", encoded(palette, "PNG", icc_profile=P3), blocks()),
        ("TIFF in LZW", encoded(stored, "TIFF", icc_profile=P3, compression="tiff_lzw"), blocks()),
    ]


@pytest.mark.parametrize(
    ("data", "expected"), [kind[1:] for kind in kinds_of_p3()], ids=[kind[0] for kind in kinds_of_p3()]
)
def test_every_mode_is_converted(data: bytes, expected: Rgb) -> None:
    assert difference(data, expected) <= 2


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_profile_of_greyscale_is_used(mode: str) -> None:
    values = np.array([[0, 40, 90, 128, 200, 255]], np.uint8)
    image = Image.fromarray(values).convert(mode) if mode != "I;16" else Image.fromarray(values.astype(np.uint16) * 257)
    expected = from_linear(to_linear(values, 1.0))
    data = encoded(image, "PNG", icc_profile=grey_profile(1.0))
    assert difference(data, np.dstack([expected] * 3)) <= 1
    assert difference(encoded(image, "PNG"), np.dstack([values] * 3)) == 0


def test_a_profile_of_greyscale_is_used_for_grey_with_alpha_of_sixteen_bits() -> None:
    values = np.array([[0, 40, 90, 128, 200, 255]])
    with_alpha = np.dstack([values, np.full_like(values, 255)]) * 257
    profile = chunk(b"iCCP", b"grey\0\0" + zlib.compress(grey_profile(1.0)))
    data = png_of(with_alpha, 16, 4, profile)
    assert difference(data, np.dstack([from_linear(to_linear(values, 1.0))] * 3)) <= 1
    assert decode(data, Limits()).notes == ()


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])
def test_a_profile_of_inks_is_used(format_name: str) -> None:
    yellow = Image.new("CMYK", (16, 16), (0, 0, 255, 0))
    options = SHARPEST_JPEG if format_name == "JPEG" else {}
    data = encoded(yellow, format_name, icc_profile=ink_profile(INKS), **options)
    red, green, blue = np.asarray(decode(data, Limits()).image).reshape(-1, 3).mean(axis=0)
    assert decode(data, Limits()).notes == ()
    assert 240 < red <= 255 and 210 < green < 240 and blue < 60  # this press's yellow, not (255, 255, 0)
    [note] = decode(encoded(yellow, format_name, **options), Limits()).notes
    assert "CMYK" in note and "approximate" in note


def test_a_profile_of_srgb_changes_nothing() -> None:
    """Profiles of sRGB have many names and slightly different curves."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "PNG", icc_profile=rgb_profile(SRGB_PRIMARIES))
    assert difference(data, noise) == 0 and decode(data, Limits()).notes == ()


@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
def test_a_large_picture_is_reduced_before_its_colours_are_converted(format_name: str) -> None:
    """LittleCMS needs a second for 25 million pixels. Without a profile, only a JPEG is reduced."""
    large = np.asarray(Image.fromarray(blocks()).resize((1202, 803), Image.Resampling.NEAREST))
    stored = Image.fromarray(as_stored(large, P3_PRIMARIES, None))
    options = SHARPEST_JPEG if format_name == "JPEG" else {}
    data = encoded(stored, format_name, icc_profile=P3, **options)
    picture = decode(data, Limits(), TargetSizes((32, 32), 100))
    assert picture.reduced_by == 8 and (picture.width_px, picture.height_px) == (1202, 803)
    middles = np.asarray(picture.image)[25::50, 25::50].astype(int)
    assert np.abs(middles - blocks()[4::8, 4::8]).max() <= 4
    plain = decode(encoded(stored, format_name, **options), Limits(), TargetSizes((32, 32), 100))
    assert plain.reduced_by == (8 if format_name == "JPEG" else 1)


UNUSABLE: dict[str, Callable[[], bytes]] = {
    "damaged": lambda: P3[:200],
    "garbage": lambda: b"x" * 300,
    "empty": lambda: b"\0",
    "of greyscale": lambda: grey_profile(2.2),
    "of inks": lambda: ink_profile(INKS),
    "too large": lambda: P3 + bytes(MAX_PROFILE_BYTES),
}


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_profile_that_cannot_be_used_is_said(format_name: str, name: str) -> None:
    if (format_name, name) == ("PNG", "too large"):
        pytest.skip("Pillow itself does not read such a large profile of a PNG")
    plain = Image.fromarray(blocks())
    data = encoded(plain, format_name, icc_profile=UNUSABLE[name](), **LOSSLESS.get(format_name, SHARPEST_JPEG))
    [note] = decode(data, Limits()).notes
    assert "colour profile could not be used" in note and "sRGB" in note
    assert difference(data, blocks()) <= (2 if format_name == "JPEG" else 0)


def test_a_gamma_without_a_profile_is_said() -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in blocks())
    linear, usual = (png(24, 16, 8, 2, rows, chunk(b"gAMA", gamma.to_bytes(4, "big"))) for gamma in (100_000, 45_455))
    [note] = decode(linear, Limits()).notes
    assert "gamma of 1" in note and decode(usual, Limits()).notes == ()


@given(data=st.data())
def test_no_profile_breaks_the_decoder(data: st.DataObject) -> None:
    """Any bytes of a profile changed: a picture, with or without a note."""
    profile = bytearray(
        data.draw(st.sampled_from([P3, rgb_profile(ADOBE_PRIMARIES, 2.2), grey_profile(1.8), ink_profile(INKS)]))
    )
    for _ in range(data.draw(st.integers(1, 6))):
        profile[data.draw(st.integers(0, len(profile) - 1))] = data.draw(st.integers(0, 255))
    mode = data.draw(st.sampled_from(["L", "RGB", "RGBA", "CMYK", "P"]))
    image = Image.fromarray(blocks()).convert(mode)
    picture = decode(encoded(image, "TIFF", icc_profile=bytes(profile)), Limits())
    assert picture.image.mode == "RGB" and picture.image.size == (24, 16)


@pytest.mark.slow
def test_a_profile_does_not_change_the_answer(shared_data: Path) -> None:
    """Real pictures as a phone with Display P3 would store them: only without the profile the answer changes."""
    bundle = read_bundle(DEMO_BUNDLE)
    predictor = Predictor(bundle, load_engine(bundle, "auto"), Limits(), 64)
    paths = sorted((shared_data / "skin" / "val").rglob("*.jpg"))[::40]
    with_profile, without = [], []
    for path in paths:
        srgb = np.asarray(Image.open(path).convert("RGB"))
        stored = Image.fromarray(as_stored(srgb, P3_PRIMARIES, None))
        expected = malignant(predictor, encoded(Image.fromarray(srgb), "PNG"))
        with_profile.append(abs(malignant(predictor, encoded(stored, "PNG", icc_profile=P3)) - expected))
        without.append(abs(malignant(predictor, encoded(stored, "PNG")) - expected))
    print(f"{len(paths)} pictures: largest change {max(with_profile):.4f} with the profile, {max(without):.4f} without")
    assert 3 * max(with_profile) < max(without)  # the rest is rounding to 8 bits


def malignant(predictor: Predictor, data: bytes) -> float:
    return predictor.answer(predictor.predict(predictor.open(data))[0]).probabilities["malignant"]
