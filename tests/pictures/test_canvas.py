"""What the first frame leaves free of its canvas is transparent, so white here, and the sender is told."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.errors import FusionLensError
from app.pictures.canvas import covered_box
from app.pictures.decode import Limits, decode
from tests.support.pictures import blocks, encoded

WHITE_NOTE = "Transparent parts of the picture were taken as white."
FEW_FRAMES = "The file holds several frames; only the first was used."


def gif(place: tuple[int, int], canvas: tuple[int, int], frames: int = 1, transparency: int | None = None) -> bytes:
    """A GIF whose first frame, the blocks, stands at a place of its canvas."""
    image = Image.fromarray(blocks()).quantize(6, dither=Image.Dither.NONE)
    more = [Image.new("P", image.size, number) for number in range(1, frames)]
    options = {} if transparency is None else {"transparency": transparency}
    data = bytearray(encoded(image, "GIF", save_all=True, append_images=more, **options))
    at = data.index(struct.pack("<cHHHH", b",", 0, 0, 24, 16))
    data[6:10], data[at + 1 : at + 5] = struct.pack("<HH", *canvas), struct.pack("<HH", *place)
    return bytes(data)


def webp(place: tuple[int, int], canvas: tuple[int, int], flags: int) -> bytes:
    """A WebP animation of one frame, the blocks. The flag 0x10 declares transparency."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)

    def small(*numbers: int) -> bytes:
        return b"".join(number.to_bytes(3, "little") for number in numbers)

    picture = encoded(Image.fromarray(blocks()), "WEBP", lossless=True)[12:]
    body = chunk(b"VP8X", bytes((flags, 0, 0, 0)) + small(canvas[0] - 1, canvas[1] - 1))
    body += chunk(b"ANIM", bytes((10, 20, 250, 255, 0, 0)))
    body += chunk(b"ANMF", small(place[0] // 2, place[1] // 2, 23, 15, 100) + b"\0" + picture)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


@pytest.mark.parametrize("place", [(0, 0), (6, 0), (0, 4), (6, 4), (16, 14)])
@pytest.mark.parametrize("kind", ["GIF", "GIF of two frames", "WebP", "WebP with transparency"])
def test_what_the_first_frame_leaves_free_is_white(kind: str, place: tuple[int, int]) -> None:
    canvas, frames = (40, 30), 1 + ("two" in kind)
    data = gif(place, canvas, frames) if "GIF" in kind else webp(place, canvas, 0x12 if "with" in kind else 0x02)
    expected = np.full((30, 40, 3), 255, np.uint8)
    expected[place[1] : place[1] + 16, place[0] : place[0] + 24] = blocks()
    picture = decode(data, Limits())
    assert np.array_equal(np.asarray(picture.image), expected)
    assert picture.notes == (*([FEW_FRAMES] if frames > 1 else []), WHITE_NOTE)


@pytest.mark.parametrize("frames", [1, 2])
def test_a_transparent_colour_inside_of_the_frame_stays_so(frames: int) -> None:
    picture = decode(gif((6, 4), (40, 30), frames, transparency=0), Limits())
    got = np.asarray(picture.image)
    inside = got[4:20, 6:30].reshape(-1, 3)
    assert (got[:4] == 255).all() and (got[:, 30:] == 255).all()
    assert 64 <= np.all(inside == 255, axis=-1).sum() < len(inside) and WHITE_NOTE in picture.notes


@pytest.mark.parametrize("data", [gif((0, 0), (24, 16)), webp((0, 0), (24, 16), 0x02)], ids=["GIF", "WebP"])
def test_a_frame_that_fills_its_canvas_needs_no_note(data: bytes) -> None:
    picture = decode(data, Limits())
    assert np.array_equal(np.asarray(picture.image), blocks()) and picture.notes == ()


@settings(max_examples=100)
@given(st.binary(max_size=60), st.integers(0, 300), st.integers(0, 255))
def test_no_damaged_file_breaks_it(tail: bytes, place: int, value: int) -> None:
    for whole in (gif((6, 4), (40, 30)), webp((6, 4), (40, 30), 0x02)):
        data = bytearray(whole)
        data[min(place, len(data) - 1)] = value
        for damaged in (bytes(data), whole[: place + 12] + tail):
            try:
                decode(damaged, Limits())
            except FusionLensError:
                continue


def test_a_still_picture_covers_its_canvas() -> None:
    data = encoded(Image.fromarray(blocks()), "WEBP", lossless=True)
    assert covered_box(Image.fromarray(blocks()), data) is None
