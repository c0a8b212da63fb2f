"""Turns what a caller has, a file, bytes, a Pillow image or an array, into the bytes that are sent."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from fusionlens_client.errors import InvalidInput

Picture: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[np.uint8]"
# Modes that PNG keeps as they are: another one would be converted, and that may change colours.
LOSSLESS_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
# What Pillow raises for damaged files, and for metadata of a wrong type.
_PILLOW_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


def picture_bytes(picture: Picture) -> bytes:
    """The bytes of a picture's file. Images and arrays become PNG, which loses nothing; files are sent as they are.

    Raises InvalidInput with a sentence if there is no such file, or if this is not a picture.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return _not_empty(bytes(picture), "These bytes are empty")
    if isinstance(picture, str | os.PathLike):
        return _not_empty(_file_bytes(Path(picture)), f"{os.fspath(picture)} is empty")
    if isinstance(picture, Image.Image):
        return _png(picture)
    if isinstance(picture, np.ndarray):
        return _png(_image_of(picture))
    raise InvalidInput(
        f"A {type(picture).__name__} is no picture: give a path, bytes, a Pillow image or an array of uint8."
    )


def _not_empty(content: bytes, sentence: str) -> bytes:
    if not content:
        raise InvalidInput(f"{sentence}: give a picture.")
    return content


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InvalidInput(f"There is no file {path}.") from None
    except IsADirectoryError:
        raise InvalidInput(f"{path} is a folder: give the path of a picture.") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # a NUL in the path
        raise InvalidInput(f"{str(path)!r} is no path: {error}.") from error


def _image_of(array: npt.NDArray[Any]) -> Image.Image:
    """The image of an array `[h, w]`, `[h, w, 3]` or `[h, w, 4]` of uint8."""
    if array.dtype != np.uint8:
        raise InvalidInput(f"An array of {array.dtype} is no picture: give values from 0 to 255 as uint8.")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise InvalidInput(
            f"An array of shape {array.shape} is no picture: give rows × columns, or rows × columns × 3 or 4."
        )
    _check_sides(array.shape[1], array.shape[0])
    return Image.fromarray(array)


def _png(image: Image.Image) -> bytes:
    if image.mode not in LOSSLESS_MODES:
        raise InvalidInput(
            f"An image of mode {image.mode} cannot be sent without loss: convert it first, as by convert('RGB')."
        )
    _check_sides(*image.size)
    file = io.BytesIO()
    try:
        image.load()
    except _PILLOW_ERRORS as error:  # a file that is truncated, damaged or closed
        raise InvalidInput(f"This image cannot be read: {error}.") from error
    try:
        # The EXIF data says which side is up. Pillow writes the colour profile by itself.
        image.save(file, "PNG", compress_level=1, exif=image.getexif())
    except _PILLOW_ERRORS as error:
        raise InvalidInput(
            f"The metadata of this image cannot be written ({error}): correct or remove what its getexif() or its info "
            "has."
        ) from error
    return file.getvalue()


def _check_sides(width_px: int, height_px: int) -> None:
    if not (width_px and height_px):
        raise InvalidInput(f"A picture of {width_px} × {height_px} pixels is empty.")
