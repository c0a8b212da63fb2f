"""The pixels of a loaded picture in one of few forms: deep greyscale, or 8 bits a channel with or without alpha."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from app.pictures.bands import bands
from app.pictures.limits import Limits
from app.pictures.png_transparency import TransparentColour, deep_rgb_alpha, read_transparent_colour
from app.shapes import UInt8, UInt16

_BITS_PER_SAMPLE, _PHOTOMETRIC, _COLOR_MAP, _EXTRA_SAMPLES = 258, 262, 320, 338  # TIFF tags
_PLAIN_MODES = ("L", "LA", "RGB", "RGBA", "CMYK")
_GREY_WITH_ALPHA = "LA;16B"  # Pillow's name for the order of bytes in a PNG of 16-bit greyscale with alpha


@dataclass(frozen=True, eq=False)
class DeepGrey:
    """Greyscale of more than 8 bits as the file stores it. `white` is the largest value of its format.

    If `white_is_zero`, values count from white to black. `alpha` is from 0, transparent, to 255.
    """

    values: UInt16[np.ndarray, "h w"]
    white: int = 65_535
    white_is_zero: bool = False
    alpha: UInt8[np.ndarray, "h w"] | None = None

    @property
    def visible(self) -> UInt16[np.ndarray, "..."]:
        """The values that are not fully transparent, or all if none is visible."""
        if self.alpha is None or self.alpha.all() or not self.alpha.any():
            return self.values
        return self.values[self.alpha > 0]


def keep_low_bytes(image: Image.Image, data: bytes) -> None:
    """Let Pillow keep the low bytes of a PNG of 16-bit greyscale with alpha, which it would drop.

    Call it before the picture is loaded. The four channels of the loaded picture are then the bytes of each pixel.
    `data` is the file. Raises ValueError for a PNG that does not begin with its header.
    """
    if image.format != "PNG":
        return
    if data[12:16] != b"IHDR":
        raise ValueError("the header is not the first chunk")
    if any(tile[3] == _GREY_WITH_ALPHA for tile in _tiles(image)):
        _read_as(image, "RGBA")


def keeps_high_byte_only(image: Image.Image) -> bool:
    """Whether Pillow will drop the low byte of each value. Call it before the picture is loaded."""
    return not _is_deep_grey(image) and any(";16" in str(tile[3]) for tile in _tiles(image))


def read_samples(image: Image.Image, data: bytes, limits: Limits) -> DeepGrey | Image.Image:
    """The pixels of a loaded picture: greyscale of more than 8 bits, or an image of mode L, LA, RGB, RGBA or CMYK.

    `data` is the file. Raises ValueError for a missing palette, and PictureTooLarge for a picture of more than half the
    allowed pixels that must be decoded twice: one of 16-bit colours of which one is transparent.
    """
    if image.mode in {"P", "PA"} and image.palette is None:
        raise ValueError("a palette is missing")  # a damaged file, for which Pillow would invent colours
    if image.format == "PNG":
        if data[24:26] == bytes((16, 4)):
            return _grey_with_alpha(image)
        colour = read_transparent_colour(data)
        if image.mode != "P":
            image.info.pop("transparency", None)  # Pillow's own reading of it
        if colour is not None and colour.depth == 16:
            return _without_deep_colour(image, colour, data, limits)
        if colour is not None:
            image.info["transparency"] = colour.of_eight_bits
    _use_palette_of_bytes(image)
    return _deep_grey(image) if _is_deep_grey(image) else _plain(image)


def _tiles(image: Image.Image) -> list[tuple[object, ...]]:
    return list(getattr(image, "tile", ()))


def _is_deep_grey(image: Image.Image) -> bool:
    return image.mode.startswith("I;16")


def _read_as(image: Image.Image, raw_mode: str) -> None:
    """Have Pillow take the pixels of a PNG picture as stored in another way, with as many bytes for a pixel."""
    image.tile = [tile._replace(args=raw_mode) for tile in image.tile]  # type: ignore[attr-defined]


def _deep_grey(image: Image.Image) -> DeepGrey:
    tags = getattr(image, "tag_v2", {})
    white = int(2 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1)
    return DeepGrey(np.asarray(image), white, tags.get(_PHOTOMETRIC) == 0)


def _grey_with_alpha(image: Image.Image) -> DeepGrey:
    """Greyscale and alpha of 16 bits, from an image whose channels are their bytes."""
    values, alpha = (np.empty((image.height, image.width), kind) for kind in (np.uint16, np.uint8))
    for top, bottom in bands(*image.size):
        pairs = np.asarray(image.crop((0, top, image.width, bottom))).view(">u2")
        values[top:bottom] = pairs[..., 0]
        alpha[top:bottom] = (pairs[..., 1] * np.uint32(255) + 32_767) // 65_535
    return DeepGrey(values, alpha=alpha)


def _without_deep_colour(
    image: Image.Image, colour: TransparentColour, data: bytes, limits: Limits
) -> DeepGrey | Image.Image:
    """A picture of 16 bits a sample with its transparent colour."""
    if _is_deep_grey(image):
        grey = _deep_grey(image)
        return replace(grey, alpha=np.multiply(grey.values != colour.samples[0], 255, dtype=np.uint8))
    # Pillow has no room for 48 bits a pixel, and the low bytes decide what is transparent.
    replace(limits, max_full_pixels=limits.max_full_pixels // 2).check(
        "picture of 16-bit colours, of which one is transparent,", *image.size
    )
    low = Image.open(io.BytesIO(data), formats=["PNG"])
    _read_as(low, "RGB;16L")  # a PNG's samples begin with the high byte, and this name is for the other order
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.fromarray(deep_rgb_alpha(image, low, colour)))
    return rgba


def _use_palette_of_bytes(image: Image.Image) -> None:
    """Read the colours of a TIFF's palette from 0 to 255 if none is larger, as libtiff does, and not from 0 to 65,535.

    Some programs write them so, and Pillow takes them all for black.
    """
    colours = getattr(image, "tag_v2", {}).get(_COLOR_MAP, ())
    if image.mode in {"P", "PA"} and 0 < max(colours, default=0) < 256:
        image.putpalette(bytes(colours), "RGB;L")


def _has_unnamed_sample(image: Image.Image) -> bool:
    """Whether a TIFF has a fourth sample that it does not call alpha. libtiff ignores it, Pillow takes it for alpha."""
    return image.format == "TIFF" and image.mode == "RGBA" and _EXTRA_SAMPLES not in getattr(image, "tag_v2", {})


def _plain(image: Image.Image) -> Image.Image:
    if _has_unnamed_sample(image):
        return image.convert("RGB")
    if image.mode in _PLAIN_MODES and "transparency" not in image.info:
        return image
    is_grey = image.mode in ("1", "L", "La")
    if image.has_transparency_data:
        return image.convert("LA" if is_grey else "RGBA")
    return image.convert("L" if is_grey else "RGB")
