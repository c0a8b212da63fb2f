"""Pictures with a foreign patch at a known place: what a branch's cells are tried on before they say what is foreign.

The patches are plain shapes filled with a colour, stripes, a checkerboard or noise: none of the objects that a data set
may have, as in Li et al. 2021, "CutPaste", where pasted patches stand for unknown defects.
"""

from __future__ import annotations

import numpy as np

from app.shapes import Bool, UInt8

_SMALLEST, _LARGEST = 0.12, 0.35  # of the picture's shorter side: the sides of a patch


def with_patch(
    image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """The picture with one patch somewhere inside, and where the patch is."""
    inside = _shape(image.shape[:2], rng)
    return np.where(inside[..., None], _texture(image.shape[:2], rng), image), inside


def _shape(size: tuple[int, ...], rng: np.random.Generator) -> Bool[np.ndarray, "h w"]:
    """A rectangle or an ellipse."""
    sides = rng.uniform(_SMALLEST, _LARGEST, 2) * min(size)
    centre = [rng.uniform(side / 2, whole - side / 2) for side, whole in zip(sides, size, strict=True)]
    down, right = (
        np.abs(np.arange(whole) + 0.5 - at) / (side / 2) for side, whole, at in zip(sides, size, centre, strict=True)
    )
    if rng.random() < 0.5:
        return np.asarray((down[:, None] <= 1) & (right <= 1))
    return np.asarray(down[:, None] ** 2 + right**2 <= 1)


def _texture(size: tuple[int, ...], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """A colour, or two of them as stripes or a checkerboard, or noise between them."""
    one, other = rng.integers(0, 256, (2, 3))
    period_px = rng.uniform(4, 0.1 * min(size) + 5)
    down, right = (np.arange(whole) * 2 / period_px for whole in size)
    match rng.integers(4):
        case 0:
            share = np.zeros(size)
        case 1:
            angle = rng.uniform(0, np.pi)
            share = np.floor(down[:, None] * np.sin(angle) + right * np.cos(angle)) % 2
        case 2:
            share = (np.floor(down)[:, None] + np.floor(right)) % 2
        case _:
            share = rng.random(size)
    return np.asarray(one + share[..., None] * (other - one), np.uint8)
