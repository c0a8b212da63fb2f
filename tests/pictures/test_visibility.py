"""Contrast is any difference that the model can see, of brightness or of colour."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.pictures.visibility import MIN_CONTRAST, lacks_contrast

COLOURS = st.tuples(*[st.integers(0, 255)] * 3)


def halves(first: tuple[int, ...], second: tuple[int, ...]) -> np.ndarray:
    image = np.empty((8, 8, 3), np.uint8)
    image[:4], image[4:] = first, second
    return image


@pytest.mark.parametrize(
    ("first", "second"),
    [((200, 20, 20), (20, 200, 20)), ((120, 60, 0), (0, 60, 120)), ((90, 90, 90), (110, 90, 70))],
)
def test_colours_of_one_brightness_are_contrast(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    assert sum(first) == sum(second) and not lacks_contrast(halves(first, second))


@given(COLOURS, COLOURS)
def test_a_channel_that_differs_is_contrast(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    largest = max(abs(one - other) for one, other in zip(first, second, strict=True))
    assert lacks_contrast(halves(first, second)) == (largest / 2 < MIN_CONTRAST)


@given(arrays(np.uint8, (6, 6, 3), elements=st.integers(100, 105)))
def test_one_colour_with_a_little_noise_lacks_contrast(image: np.ndarray) -> None:
    assert lacks_contrast(image)
