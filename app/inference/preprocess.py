"""Bytes to picture to model input, and the way back. Serving and evaluation both use this and nothing else."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
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
# What Pillow's loaders for these formats raise on damaged files, asserts on a missing palette among it.
_DAMAGE = (
    *(OSError, EOFError, SyntaxError, ValueError, struct.error, zlib.error, LookupError, TypeError),
    *(AssertionError, AttributeError),
)
_PILLOW_MAX_PIXELS = 178_956_970
_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC = 0x0112, 258, 262  # of EXIF and TIFF, which share their tags
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
    """What a picture may declare in its header before any pixel is decoded.

    Raises ValueError for more pixels than Pillow decodes.
    """

    max_pixels: int = 50_000_000
    max_side_px: int = 16_384

    def __post_init__(self) -> None:
        if self.max_pixels > _PILLOW_MAX_PIXELS:
            raise ValueError(f"max_pixels is {self.max_pixels}, but Pillow decodes at most {_PILLOW_MAX_PIXELS}")


@dataclass(frozen=True)
class Picture:
    """A decoded upload: upright 8-bit RGB, no metadata. `notes` say what the sender may not expect, in sentences."""

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
        # The side that is seen whole stays exact: rounded up, the view would reach out of the picture.
        seen_width, seen_height = float(width), float(height)
        if width * input_height > height * input_width:
            seen_width = height * input_width / input_height
        else:
            seen_height = width * input_height / input_width
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
    format_name = _format(data)
    _silence_pillow()
    notes = []
    try:
        image = Image.open(io.BytesIO(data), formats=[format_name])
        if image.width * image.height > limits.max_pixels or max(image.size) > limits.max_side_px:
            raise PictureTooLarge(f"The picture is {image.width} × {image.height} px. {_too_large(limits)}")
        if getattr(image, "is_animated", False):
            notes.append("The file holds several frames; only the first was used.")
            image.seek(0)
        image.load()
        rgb = _to_rgb(image)
    except Image.DecompressionBombError as error:
        raise PictureTooLarge(_too_large(limits)) from error
    except _DAMAGE as error:
        raise UnreadablePicture(
            f"The {format_name} picture is damaged or cut off and cannot be decoded: send the whole file."
        ) from error
    orientation = _orientation(image)
    if orientation is None:
        notes.append("The EXIF data is damaged; the picture was taken as upright.")
    elif orientation in _TRANSPOSE:
        rgb = rgb.transpose(_TRANSPOSE[orientation])
    rgb.info.clear()
    return Picture(rgb, format_name, tuple(notes))


def prepare(picture: Picture, input_size: tuple[int, int]) -> Prepared:
    """The model's input (height, width): shortest side to size, centre crop, in one antialiased bicubic resize.

    A picture six times as large or more is first shrunk by a whole factor, which saves time and cannot be seen.
    """
    frame = Frame.shortest_side(picture.image.size, input_size)
    height, width = input_size
    factor = max(1, int(frame.width_px / width / 3))
    edges = frame.left_px, frame.top_px, frame.left_px + frame.width_px, frame.top_px + frame.height_px
    left, top, right, bottom = (edge / factor for edge in edges)
    # As floats: in 8 bits Pillow rounds and clips between its two passes, and its versions differ in their order.
    channels = [
        channel.convert("F").resize((width, height), Image.Resampling.BICUBIC, box=(left, top, right, bottom))
        for channel in picture.image.reduce(factor).split()
    ]
    resized = np.stack([np.asarray(channel) for channel in channels], axis=-1)
    return Prepared(np.clip(np.rint(resized), 0, 255).astype(np.uint8), frame)


def preview(picture: Picture, longest_side_px: int) -> Image.Image:
    """The upright picture, shrunk to a longest side where it is larger."""
    factor = longest_side_px / max(picture.image.size)
    if factor >= 1:
        return picture.image
    width, height = (max(1, round(side * factor)) for side in picture.image.size)
    return picture.image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


def _format(data: bytes) -> str:
    for name, starts in SIGNATURES.items():
        if data.startswith(starts) and (name != "WEBP" or data[8:12] == b"WEBP"):
            return name
    raise UnsupportedMediaType(f"This is not a picture in a format we read: send {', '.join(SIGNATURES)}.")


def _silence_pillow() -> None:
    """Keep Pillow's warnings about a sender's file out of our logs: notes and errors tell the sender.

    A filter that stays, since `warnings.catch_warnings` is not safe in threads; and set only where it is not the
    first already, since a change of filters makes Python repeat every other warning.
    """
    module = r"PIL\."
    if not warnings.filters or warnings.filters[0][3] != re.compile(module):
        warnings.filterwarnings("ignore", module=module)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in {"I", "F", "LAB"}:
        raise UnreadablePicture(
            f"Pixels of type {image.mode} are not supported: convert the picture to 8-bit colour or 16-bit greyscale."
        )
    if image.mode.startswith("I;16"):
        return _eight_bit(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    on_white = Image.new("RGB", rgba.size, "white")
    on_white.paste(rgba, mask=rgba.getchannel("A"))
    return on_white


def _eight_bit(image: Image.Image) -> Image.Image:
    """12- or 16-bit greyscale, scaled. Pillow's own conversion would clip, and forgets where 0 means white."""
    tags = getattr(image, "tag_v2", {})
    white = 2 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1
    grey = (np.asarray(image).astype(np.uint32) * 255 + white // 2) // white
    return Image.fromarray((255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey).astype(np.uint8))


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, 1 where there is none, None where the data is damaged."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except _DAMAGE:
        return None
    if orientation is None and _is_whole(image.info.get("exif", b"")):
        return 1
    return orientation if orientation in range(1, 9) else None


def _is_whole(exif: bytes) -> bool:
    """Whether an EXIF block's first directory, the orientation's place, is all there. Pillow skips what is not."""
    block = exif.removeprefix(b"Exif\0\0")
    if not block:
        return True
    try:
        order = {b"II*\0": "<", b"MM\0*": ">"}[block[:4]]
        (start,) = struct.unpack_from(f"{order}L", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, start)
    except (KeyError, struct.error):
        return False
    return bool(start + 2 + 12 * entries <= len(block))


def _too_large(limits: Limits) -> str:
    return (
        f"Pictures may have {limits.max_pixels / 1e6:g} million pixels and {limits.max_side_px} px a side: "
        "send a smaller one."
    )
