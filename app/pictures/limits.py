"""The formats and sizes of pictures that are decoded."""

from __future__ import annotations

from dataclasses import dataclass

from app.errors import PictureTooLarge
from app.pictures.formats import SIGNATURES

_PILLOW_MAX_PIXELS = 178_956_970


@dataclass(frozen=True)
class Limits:
    """The formats that are read, and the largest size that a picture may declare in its header.

    Both are checked before any pixel is decoded. `max_pixels` is for JPEGs, which can be decoded at a reduced scale,
    and `max_full_pixels` for all other pictures, which are decoded at full size. `formats` are some of `SIGNATURES` and
    `MORE_FORMATS`. Raises ValueError if a limit is larger than what Pillow decodes.
    """

    max_pixels: int = 50_000_000
    max_full_pixels: int = 25_000_000
    max_side_px: int = 16_384
    formats: tuple[str, ...] = tuple(SIGNATURES)

    def __post_init__(self) -> None:
        if max(self.max_pixels, self.max_full_pixels) > _PILLOW_MAX_PIXELS:
            raise ValueError(f"the limits are {self}, but Pillow decodes at most {_PILLOW_MAX_PIXELS} pixels")

    def check(self, what: str, width_px: int, height_px: int, can_reduce: bool = False) -> None:
        """Raises PictureTooLarge, in a sentence about `what`, for a size that a picture may not have."""
        if width_px * height_px > self._largest(can_reduce) or max(width_px, height_px) > self.max_side_px:
            raise PictureTooLarge(f"The {what} is {width_px} × {height_px} px. {self.describe(can_reduce)}")

    def describe(self, can_reduce: bool = False) -> str:
        """A sentence about the limits for someone whose picture is larger."""
        return (
            f"It may have {self._largest(can_reduce) / 1e6:g} million pixels and {self.max_side_px} px a side: "
            f"send a smaller one{'' if can_reduce else ', or a JPEG'}."
        )

    def _largest(self, can_reduce: bool) -> int:
        return self.max_pixels if can_reduce else min(self.max_pixels, self.max_full_pixels)
