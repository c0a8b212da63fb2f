"""Things that lie on skin in photographs of it, drawn at a known place: a ruler, a sticker, a bubble in the gel.

They judge the map of foreign parts, and no fit has seen them: it pastes plain shapes (`training.trust.pasted`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw

from app.shapes import Bool, UInt8

Picture = UInt8[np.ndarray, "h w 3"]
_STICKERS = ((30, 60, 200), (20, 150, 60), (240, 200, 20), (200, 30, 120), (235, 235, 235))


def with_object(picture: Picture, kind: str, rng: np.random.Generator) -> tuple[Picture, Bool[np.ndarray, "h w"]]:
    """The picture with one object of this kind, and where it is."""
    image = Image.fromarray(picture)
    where = Image.new("L", image.size)
    KINDS[kind](ImageDraw.Draw(image, "RGBA"), ImageDraw.Draw(where), image.size, rng)
    return np.asarray(image), np.asarray(where) > 0


def _ruler(
    draw: ImageDraw.ImageDraw, where: ImageDraw.ImageDraw, size: tuple[int, int], rng: np.random.Generator
) -> None:
    """A pale strip with marks from one edge to the other, along an edge or somewhere else."""
    width, height = size
    thick = int(0.14 * height)
    top = (0, height - thick, int(rng.integers(0, height - thick)))[rng.integers(3)]
    where.rectangle((0, top, width, top + thick), fill=255)
    draw.rectangle((0, top, width, top + thick), fill=(235, 235, 230, 255))
    step = max(3, width // 40)
    for number, left in enumerate(range(0, width, step)):
        draw.line((left, top, left, top + thick // (2 if number % 5 == 0 else 4)), fill=(10, 10, 10, 255), width=1)


def _sticker(
    draw: ImageDraw.ImageDraw, where: ImageDraw.ImageDraw, size: tuple[int, int], rng: np.random.Generator
) -> None:
    """A disc of one colour."""
    box = _disc(size, rng.uniform(0.08, 0.14), rng)
    where.ellipse(box, fill=255)
    draw.ellipse(box, fill=_STICKERS[rng.integers(len(_STICKERS))])


def _bubble(
    draw: ImageDraw.ImageDraw, where: ImageDraw.ImageDraw, size: tuple[int, int], rng: np.random.Generator
) -> None:
    """A pale ring that shows what is below it, with a reflection."""
    left, top, right, bottom = box = _disc(size, rng.uniform(0.07, 0.13), rng)
    where.ellipse(box, fill=255)
    draw.ellipse(box, fill=(255, 255, 255, 60), outline=(255, 255, 255, 220), width=2)
    across, down = (right - left) / 4, (bottom - top) / 4
    draw.ellipse((left + across, top + down, left + 1.6 * across, top + 1.6 * down), fill=(255, 255, 255, 240))


def _disc(size: tuple[int, int], share: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    radius = share * size[0]
    across, down = rng.uniform(radius, size[0] - radius), rng.uniform(radius, size[1] - radius)
    return across - radius, down - radius, across + radius, down + radius


KINDS: Mapping[str, Callable[..., None]] = {"ruler": _ruler, "sticker": _sticker, "bubble": _bubble}
