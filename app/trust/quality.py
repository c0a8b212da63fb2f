"""Whether a picture is good enough to be judged at all: nearly black, without contrast, blurred, or tiny."""

from __future__ import annotations

import numpy as np

from app.pictures.visibility import MAX_ENLARGEMENT, lacks_contrast
from app.shapes import UInt8

SMALLEST_BRIGHTNESS = 10.0  # mean of the grey values, in levels of 255


def sharpness(image: UInt8[np.ndarray, "h w 3"]) -> float:
    """The standard deviation of the Laplacian of a model's input, in levels of 255 (Pech-Pacheco et al. 2000).

    Of the green channel, which carries most of the brightness.
    """
    grey = image[..., 1].astype(np.int16)
    middle = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
    return float(laplacian.std(dtype=np.float32))


def faults(image: UInt8[np.ndarray, "h w 3"], enlargement: float, smallest_sharpness: float) -> list[str]:
    """What is wrong with a model's input, in words that follow "the picture". Most pictures have nothing wrong."""
    found = []
    if float(image[::4, ::4].mean()) < SMALLEST_BRIGHTNESS:
        found.append("is nearly black")
    if lacks_contrast(image):
        found.append("has hardly any contrast")
    elif sharpness(image) < smallest_sharpness:
        found.append("is blurred")
    if enlargement > MAX_ENLARGEMENT:
        found.append(f"was enlarged {enlargement:.3g} times, as it is tiny")
    return found
