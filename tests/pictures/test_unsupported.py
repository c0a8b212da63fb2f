"""What is not supported within a known format is named, and only damage is called damage. TIFF has its own test."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from app.errors import UnreadablePicture
from app.pictures.decode import Limits, decode
from tests.support.pictures import blocks, chunk, encoded


def changed(data: bytes, place: int, *values: int) -> bytes:
    """The file with other bytes at a place."""
    return data[:place] + bytes(values) + data[place + len(values) :]


def files() -> dict[str, bytes]:
    image = Image.fromarray(blocks())
    jpeg, bmp, png = (encoded(image, name) for name in ("JPEG", "BMP", "PNG"))
    frame = jpeg.index(b"\xff\xc0")
    return {
        "JPEG of 12 bits and 3 channels": changed(jpeg, frame + 4, 12),
        "JPEG of 16 bits": changed(jpeg, frame + 4, 16),
        "JPEG of 8 bits and 2 channels": changed(jpeg, frame + 9, 2),
        "JPEG in hierarchical form": changed(jpeg, frame + 1, 0xC5),
        "BMP with 64 bits a pixel": changed(bmp, 28, 64),
        "BMP with 2 bits a pixel": changed(bmp, 28, 2),
        "BMP that holds a JPEG": changed(bmp, 30, 4),
        "PNG in the form that Apple's tools make": png[:8] + chunk(b"CgBI", bytes(4)) + png[8:],
    }


@pytest.mark.parametrize("name", files())
def test_what_is_not_supported_is_named_with_advice(name: str) -> None:
    with pytest.raises(UnreadablePicture, match="is not supported: save it as") as caught:
        decode(files()[name], Limits())
    assert name in str(caught.value) and "damaged" not in str(caught.value)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
def test_a_file_without_its_second_half_is_damaged(format_name: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    whole = encoded(noise, format_name)
    with pytest.raises(UnreadablePicture, match=f"{format_name} picture is damaged or cut off"):
        decode(whole[: len(whole) // 2], Limits())
