"""A picture whose alpha is 0 everywhere shows its colours: many programs write such an alpha where they mean none."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, features

from app.pictures.decode import Limits, decode
from tests.support.pictures import blocks, encoded, png_of

GREY = blocks()[..., :1]


def rgba(alpha: int) -> Image.Image:
    return Image.fromarray(np.dstack([blocks(), np.full((16, 24), alpha, np.uint8)]))


def bmp_of_version_4(alpha: int) -> bytes:
    """A BMP of 32 bits as Windows programs write it, with a mask for alpha."""
    pixels = np.asarray(rgba(alpha))[::-1, :, [2, 1, 0, 3]].tobytes()
    header = struct.pack("<IiiHHIIiiII", 108, 24, 16, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs"
    return b"BM" + struct.pack("<IHHI", 122 + len(pixels), 0, 0, 122) + header.ljust(108, b"\0") + pixels


def grey_with_alpha(alpha: int, depth: int) -> bytes:
    largest = 2**depth - 1
    samples = np.dstack([GREY, np.full_like(GREY, alpha)]).astype(int) * largest // 255
    return png_of(samples, depth, 4)


def palette(alpha: int) -> bytes:
    image = Image.fromarray(blocks()).quantize(6, dither=Image.Dither.NONE)
    return encoded(image, "PNG", transparency=bytes([alpha] * 6))


def avif(alpha: int) -> bytes:
    if not features.check("avif"):
        pytest.skip("Pillow has no AVIF")
    return encoded(rgba(alpha), "AVIF", quality=100, subsampling="4:4:4")


KINDS: dict[str, tuple[Callable[[int], bytes], int]] = {
    "BMP": (bmp_of_version_4, 3),
    "PNG": (lambda alpha: encoded(rgba(alpha), "PNG"), 3),
    "PNG of a palette": (palette, 3),
    "PNG of grey": (lambda alpha: grey_with_alpha(alpha, 8), 1),
    "PNG of deep grey": (lambda alpha: grey_with_alpha(alpha, 16), 1),
    "TIFF": (lambda alpha: encoded(rgba(alpha), "TIFF"), 3),
    "WebP": (lambda alpha: encoded(rgba(alpha), "WEBP", lossless=True, exact=True), 3),
    "AVIF": (avif, 3),
}


@pytest.mark.parametrize("name", KINDS)
def test_an_alpha_of_0_everywhere_is_not_used(name: str) -> None:
    make, channels = KINDS[name]
    picture = decode(make(0), Limits(formats=("PNG", "BMP", "TIFF", "WEBP", "AVIF")))
    expected = blocks() if channels == 3 else np.repeat(GREY, 3, axis=-1)
    assert np.abs(np.asarray(picture.image).astype(int) - expected).max() <= (4 if name == "AVIF" else 0)
    [note] = picture.notes
    assert "declared as transparent" in note and "colours were used" in note


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("alpha", [128, 255])
def test_any_other_alpha_is_used(name: str, alpha: int) -> None:
    picture = decode(KINDS[name][0](alpha), Limits(formats=("PNG", "BMP", "TIFF", "WEBP", "AVIF")))
    assert picture.notes == (() if alpha == 255 else ("Transparent parts of the picture were taken as white.",))


def test_nothing_but_transparency_is_white() -> None:
    """Its one colour is what a program left there."""
    picture = decode(encoded(Image.new("RGBA", (24, 16), (0, 0, 0, 0)), "PNG"), Limits())
    assert np.asarray(picture.image).min() == 255 and "white" in picture.notes[0]
