"""Copies are near duplicates however they were saved and turned, and different pictures are not."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from app.shapes import UInt8
from training.data.draw import draw_lesion
from training.data.duplicates import fingerprint, near_copies

Change = Callable[[Image.Image], Image.Image]


def jpeg(image: Image.Image) -> Image.Image:
    image.save(data := io.BytesIO(), "JPEG", quality=40)
    return Image.open(data)


CHANGES: dict[str, Change] = {
    "jpeg": jpeg,
    "smaller": lambda image: image.resize((60, 60)),
    "larger": lambda image: image.resize((230, 230), Image.Resampling.BICUBIC),
    "darker": lambda image: image.point(lambda value: value * 0.8),
    "brighter": lambda image: image.point(lambda value: value * 1.1),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "grey": lambda image: image.convert("L"),
}


@pytest.fixture(scope="module")
def lesions() -> list[UInt8[np.ndarray, "h w 3"]]:
    """More than are compared at once."""
    return [draw_lesion(np.random.default_rng([6, n]), ("benign", "malignant")[n % 2], 96).image for n in range(140)]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_near_in_every_orientation_and_nothing_else_is(
    lesions: list[UInt8[np.ndarray, "h w 3"]], change: str
) -> None:
    prints = [fingerprint(lesion) for lesion in lesions]
    turned = [Image.fromarray(lesion) for lesion in lesions[:8]]
    for number, orientation in enumerate(list(Image.Transpose)):
        turned[number] = turned[number].transpose(orientation)
    copies = [fingerprint(np.asarray(CHANGES[change](image).convert("RGB"))) for image in turned]
    assert set(near_copies(prints + copies)) == {(number, len(lesions) + number) for number in range(8)}


def test_pictures_without_detail_are_copies_of_none() -> None:
    plain = [np.full((40, 40, 3), level, np.uint8) for level in range(0, 250, 25)]
    with np.errstate(all="raise"):
        assert not set(near_copies([fingerprint(image) for image in plain]))
