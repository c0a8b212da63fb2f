"""From the bytes of an upload to all that is kept of it: the model's input, a preview and a few facts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.pictures.bit_depth import Stretch
from app.pictures.decode import Limits, TargetSizes, decode
from app.pictures.prepare import prepare
from app.pictures.preview import preview
from app.pictures.visibility import visibility_notes
from app.shapes import UInt8


@dataclass(frozen=True)
class OpenOptions:
    """How uploads are opened for a model.

    `input_size` is the model's (height, width), `preview_side_px` the longest side of the preview, and `stretch` the
    bundle's rule for grey values. Without `has_preview` no preview is made, and the model's input is the same.
    """

    input_size: tuple[int, int]
    limits: Limits
    preview_side_px: int
    stretch: Stretch = None
    has_preview: bool = True


@dataclass(frozen=True, eq=False)
class OpenedPicture:
    """A decoded upload. `width_px` and `height_px` are those of the upright upload, `image` is the model's input.

    `preview` is None if none was asked for.
    """

    width_px: int
    height_px: int
    format: str
    notes: tuple[str, ...]
    image: UInt8[np.ndarray, "h w 3"]
    preview: UInt8[np.ndarray, "preview_h preview_w 3"] | None


def open_picture(data: bytes, options: OpenOptions) -> OpenedPicture:
    """Decode an upload for a model. Raises what `app.pictures.decode.decode` raises."""
    sizes = TargetSizes(options.input_size, options.preview_side_px)
    picture = decode(data, options.limits, sizes, options.stretch)
    prepared = prepare(picture, options.input_size)
    return OpenedPicture(
        picture.width_px,
        picture.height_px,
        picture.format,
        (*picture.notes, *visibility_notes(picture, prepared)),
        prepared.image,
        np.asarray(preview(picture, options.preview_side_px)) if options.has_preview else None,
    )
