"""The small picture that is kept of an upload, for overlays to be drawn on."""

from __future__ import annotations

from PIL import Image

from app.pictures.decode import PREVIEW_REDUCING_GAP, Picture


def preview(picture: Picture, longest_side_px: int) -> Image.Image:
    """The whole upright picture, shrunk to a longest side where it is larger.

    By Pillow's antialiased Hamming filter: next to as sharp as the cubic of `prepare`, with half as many pixels in
    each sum, which is what shrinking costs.
    """
    width, height = picture.width_px, picture.height_px
    scale = min(longest_side_px / max(width, height), 1 / picture.reduced_by)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    left, top, right, bottom = picture.overhang
    box = left, top, picture.image.width - right, picture.image.height - bottom
    return picture.image.resize(size, Image.Resampling.HAMMING, box, PREVIEW_REDUCING_GAP)
