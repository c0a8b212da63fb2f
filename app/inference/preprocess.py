"""Bytes to picture to model input, and the way back. Serving and evaluation both use this and nothing else."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from app.errors import EmptyUpload, PictureTooLarge, UnreadablePicture, UnsupportedMediaType

# The formats we decode, by the bytes that a file of each starts with. Pillow's other loaders are never reached.
SIGNATURES: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "WEBP": (b"RIFF",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*"),
    "BMP": (b"BM",),
}
# What Pillow's loaders for these formats raise on damaged files.
_DAMAGE = (OSError, EOFError, SyntaxError, ValueError, struct.error, zlib.error, IndexError, KeyError, TypeError)
_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Limits:
    """What a picture may declare in its header before any pixel is decoded."""

    max_pixels: int = 50_000_000
    max_side_px: int = 16_384


@dataclass(frozen=True)
class Picture:
    """A decoded upload: upright 8-bit RGB. `notes` say what the sender may not expect, in sentences."""

    image: Image.Image
    format: str
    notes: tuple[str, ...] = ()

    @property
    def width_px(self) -> int:
        return self.image.width

    @property
    def height_px(self) -> int:
        return self.image.height


@dataclass(frozen=True)
class Frame:
    """Where the model's input lies in the upright picture. Coordinates are continuous: a pixel's centre is at +0.5.

    The model saw the picture from (`left_px`, `top_px`), `width_px` wide and `height_px` high, as an input of
    `input_width_px` × `input_height_px`.
    """

    left_px: float
    top_px: float
    width_px: float
    height_px: float
    input_width_px: int
    input_height_px: int

    @classmethod
    def shortest_side(cls, picture_size: tuple[int, int], input_size: tuple[int, int]) -> Frame:
        """Shortest side to size, centre crop. `picture_size` is (width, height), `input_size` (height, width)."""
        (width, height), (input_height, input_width) = picture_size, input_size
        scale = max(input_width / width, input_height / height)
        seen_width, seen_height = input_width / scale, input_height / scale
        return cls(
            (width - seen_width) / 2, (height - seen_height) / 2, seen_width, seen_height, input_width, input_height
        )

    def to_picture(self, x: float, y: float) -> tuple[float, float]:
        """A point of the model input, in the picture."""
        return (
            self.left_px + x * self.width_px / self.input_width_px,
            self.top_px + y * self.height_px / self.input_height_px,
        )

    def to_input(self, x: float, y: float) -> tuple[float, float]:
        """A point of the picture, in the model input (outside it where the model did not look)."""
        return (
            (x - self.left_px) * self.input_width_px / self.width_px,
            (y - self.top_px) * self.input_height_px / self.height_px,
        )

    def scaled(self, factor_x: float, factor_y: float) -> Frame:
        """The same view of a picture whose sides were resized by these factors."""
        return Frame(
            self.left_px * factor_x,
            self.top_px * factor_y,
            self.width_px * factor_x,
            self.height_px * factor_y,
            self.input_width_px,
            self.input_height_px,
        )


@dataclass(frozen=True)
class Prepared:
    """The model's input, and where it lies in the picture."""

    image: UInt8[np.ndarray, "h w 3"]
    frame: Frame


def decode(data: bytes, limits: Limits) -> Picture:
    """Decode an upload: first frame, upright by its EXIF orientation, on white where transparent, 8-bit RGB.

    Raises EmptyUpload, UnsupportedMediaType, PictureTooLarge (from the header, before any pixel is decoded) and
    UnreadablePicture.
    """
    if not data:
        raise EmptyUpload("The upload is empty: send the bytes of a picture.")
    formats = [name for name, starts in SIGNATURES.items() if data.startswith(starts)]
    if not formats or (formats == ["WEBP"] and data[8:12] != b"WEBP"):
        raise UnsupportedMediaType(f"This is not a picture in a format we read: send {', '.join(SIGNATURES)}.")
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        raise PictureTooLarge(_too_large(limits)) from error
    except _DAMAGE as error:
        raise UnreadablePicture(f"The {formats[0]} picture is damaged: its header cannot be read.") from error
    if image.width * image.height > limits.max_pixels or max(image.size) > limits.max_side_px:
        raise PictureTooLarge(f"The picture is {image.width} × {image.height} px. {_too_large(limits)}")
    notes = []
    try:
        if getattr(image, "is_animated", False):
            notes.append("The file holds several frames; only the first was used.")
            image.seek(0)
        image.load()
        rgb = _to_rgb(image)
    except Image.DecompressionBombError as error:
        raise PictureTooLarge(_too_large(limits)) from error
    except _DAMAGE as error:
        raise UnreadablePicture(f"The {formats[0]} picture is damaged or cut off and cannot be decoded.") from error
    orientation, note = _orientation(image)
    notes += note
    if orientation in _TRANSPOSE:
        rgb = rgb.transpose(_TRANSPOSE[orientation])
    return Picture(rgb, formats[0], tuple(notes))


def prepare(picture: Picture, input_size: tuple[int, int]) -> Prepared:
    """The model's input (height, width): shortest side to size, centre crop, in one antialiased bicubic resize."""
    frame = Frame.shortest_side(picture.image.size, input_size)
    box = (frame.left_px, frame.top_px, frame.left_px + frame.width_px, frame.top_px + frame.height_px)
    height, width = input_size
    resized = picture.image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return Prepared(np.array(resized), frame)


def preview(picture: Picture, longest_side_px: int) -> Image.Image:
    """The upright picture, shrunk to a longest side where it is larger."""
    factor = longest_side_px / max(picture.image.size)
    if factor >= 1:
        return picture.image
    width, height = (max(1, round(side * factor)) for side in picture.image.size)
    return picture.image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


def as_float(grey: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b 3 h w"]:
    """A batch of model inputs as RGB in [0, 1], channels first."""
    return np.ascontiguousarray(grey.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in {"I", "F", "LAB"} and image.format != "PNG":
        raise UnreadablePicture(
            f"Pixels of type {image.mode} have no agreed brightness range: convert the picture to 8 or 16 bit."
        )
    if image.mode.startswith("I"):  # 16-bit greyscale; Pillow's own conversion would clip instead of scale
        sixteen_bit = np.clip(np.asarray(image, dtype=np.int64), 0, 65_535)
        return Image.fromarray((sixteen_bit / 257).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> tuple[int, list[str]]:
    try:
        return int(image.getexif().get(_ORIENTATION, 1)), []
    except _DAMAGE:
        return 1, ["The EXIF data is damaged; the picture was taken as upright."]


def _too_large(limits: Limits) -> str:
    return (
        f"Pictures may have {limits.max_pixels / 1e6:g} million pixels and {limits.max_side_px} px a side: "
        "send a smaller one."
    )
