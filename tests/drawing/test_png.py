"""Our PNGs are what independent decoders read back, at a size that others need too."""

from __future__ import annotations

import io

import cv2
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from app.drawing.overlay import Style
from app.drawing.png import encode_png
from app.pictures.rectangle import Rectangle
from tests.drawing.test_overlay import draw, noisy, signed


@settings(deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), smooth=st.booleans())
@example(height=1, width=1, smooth=False)
@example(height=769, width=1023, smooth=False)
@example(height=600, width=601, smooth=True)
def test_png_is_read_back_by_other_decoders_as_the_same_rgb(height: int, width: int, smooth: bool) -> None:
    picture = noisy(height, width)
    if smooth:
        picture = cv2.GaussianBlur(picture, (15, 15), 4).reshape(picture.shape)
    png = encode_png(picture)
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.asarray(image), picture)
    decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(decoded, picture)


def test_png_of_an_overlay_is_not_much_larger_than_pillows() -> None:
    picture = cv2.GaussianBlur(noisy(300, 400), (15, 15), 3)
    overlay = draw(picture, signed(), Rectangle(50.0, 0.0, 300.0, 300.0), Style()).picture
    reference = io.BytesIO()
    Image.fromarray(overlay).save(reference, "PNG")
    assert len(encode_png(overlay)) < 1.5 * len(reference.getvalue())
