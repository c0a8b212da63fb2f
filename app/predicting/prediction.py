"""A picture on its way through the model, and what is kept of it for explanations."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, Float32, UInt8
from PIL import Image

from app.models.feature_maps import FeatureMaps
from app.pictures.decode import Limits, TargetSizes, decode
from app.pictures.prepare import Frame, prepare
from app.pictures.preview import preview


@dataclass(frozen=True, eq=False)
class Upload:
    """A decoded picture, ready for the model, without the upload's own bytes."""

    width_px: int
    height_px: int
    format: str
    notes: tuple[str, ...]
    image: UInt8[np.ndarray, "h w 3"]
    preview_jpeg: bytes
    frame: Frame  # in the upright picture


def open_upload(data: bytes, input_size: tuple[int, int], limits: Limits, preview_side_px: int) -> Upload:
    """Decode an upload for a model that takes `input_size` (rows, columns). Raises what `preprocess.decode` raises."""
    picture = decode(data, limits, TargetSizes(input_size, preview_side_px))
    prepared = prepare(picture, input_size)
    return Upload(
        picture.width_px,
        picture.height_px,
        picture.format,
        picture.notes,
        prepared.image,
        _to_jpeg(preview(picture, preview_side_px)),
        prepared.frame,
    )


@dataclass(frozen=True, eq=False)
class Prediction:
    """An answer, and all that later explanations of it need. `maps` has no batch axis.

    `gradient` is that of the answer's own class, where it was computed with the answer.
    """

    bundle_sha256: str
    logits: Float32[np.ndarray, " k"]
    maps: FeatureMaps[Float16[np.ndarray, "c h w"]]
    upload: Upload
    gradient: FeatureMaps[Float32[np.ndarray, "c h w"]] | None = None

    @property
    def nbytes(self) -> int:
        """Memory that this takes, near enough for a budget."""
        arrays: list[np.ndarray] = [self.logits, self.upload.image, *self.maps.values()]
        arrays += (self.gradient or {}).values()
        return sum(int(array.nbytes) for array in arrays) + len(self.upload.preview_jpeg) + 1000


def _to_jpeg(rgb: Image.Image) -> bytes:
    data = io.BytesIO()
    # 4:4:4 and a high quality: the overlay's colours stand on this picture
    rgb.save(data, "JPEG", quality=92, subsampling="4:4:4")
    return data.getvalue()
