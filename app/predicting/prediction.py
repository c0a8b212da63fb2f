"""A decoded picture, and its prediction with all that later explanations need."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from app.models.feature_maps import FeatureMaps
from app.pictures.opened import OpenedPicture
from app.pictures.prepare import Frame
from app.shapes import Float16, Float32, UInt8


@dataclass(frozen=True, eq=False)
class Upload:
    """A decoded picture, ready for the model. The bytes of the upload are not kept."""

    width_px: int
    height_px: int
    format: str
    notes: tuple[str, ...]
    image: UInt8[np.ndarray, "h w 3"]
    preview_jpeg: bytes
    frame: Frame  # what the model sees, in pixels of the upright picture


def upload_of(opened: OpenedPicture) -> Upload:
    """What is kept of a picture that was opened: the preview as JPEG, and the frame of the model's input."""
    return Upload(
        opened.width_px,
        opened.height_px,
        opened.format,
        opened.notes,
        opened.image,
        b"" if opened.preview is None else _to_jpeg(Image.fromarray(opened.preview)),
        Frame.shortest_side((opened.width_px, opened.height_px), opened.image.shape[:2]),
    )


@dataclass(frozen=True, eq=False)
class Prediction:
    """The logits of one picture, with all that later explanations need.

    `maps` are the feature maps. `gradient` is the derivative of the label's score with respect to them, if it was
    computed together with the logits.
    """

    bundle_sha256: str
    logits: Float32[np.ndarray, " k"]
    maps: FeatureMaps[Float16[np.ndarray, "c h w"]]
    upload: Upload
    gradient: FeatureMaps[Float32[np.ndarray, "c h w"]] | None = None

    @property
    def nbytes(self) -> int:
        """The approximate memory of this prediction, for the budget of a store."""
        arrays: list[np.ndarray] = [self.logits, self.upload.image, *self.maps.values()]
        arrays += (self.gradient or {}).values()
        return sum(int(array.nbytes) for array in arrays) + len(self.upload.preview_jpeg) + 1000


def _to_jpeg(rgb: Image.Image) -> bytes:
    data = io.BytesIO()
    # 4:4:4 and a high quality, because overlays are drawn on this picture
    rgb.save(data, "JPEG", quality=92, subsampling="4:4:4")
    return data.getvalue()
