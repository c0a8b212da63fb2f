"""The model's input lies where the frame says, so that an overlay lies over the user's own upright picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from app.pictures.decode import Limits, Picture, decode
from app.pictures.prepare import Frame, prepare
from app.pictures.preview import preview
from app.shapes import Float64
from tests.support.pictures import Rgb, encoded, exif, turned

Size = tuple[int, int]
sides = st.integers(1, 20_000)
input_sizes = st.tuples(st.integers(1, 512), st.integers(1, 512))
shares = st.floats(0, 1)
repeatable = settings(max_examples=150, derandomize=True, database=None, deadline=None)


@given(picture_size=st.tuples(sides, sides), input_size=input_sizes, share=st.tuples(shares, shares))
@repeatable
def test_a_point_goes_to_the_picture_and_back(picture_size: Size, input_size: Size, share: tuple[float, float]) -> None:
    frame = Frame.shortest_side(picture_size, input_size)
    point = share[0] * input_size[1], share[1] * input_size[0]
    assert frame.to_input(*frame.to_picture(*point)) == pytest.approx(point, abs=1e-6)


@given(picture_size=st.tuples(sides, sides), input_size=input_sizes)
@example(picture_size=(2994, 3000), input_size=(384, 384))
@repeatable
def test_the_view_is_the_largest_central_part_of_its_shape(picture_size: Size, input_size: Size) -> None:
    frame, (width, height) = Frame.shortest_side(picture_size, input_size), picture_size
    assert frame.left_px >= 0 and frame.left_px + frame.width_px <= width
    assert frame.top_px >= 0 and frame.top_px + frame.height_px <= height
    assert frame.width_px == width or frame.height_px == height
    assert frame.width_px / frame.height_px == pytest.approx(input_size[1] / input_size[0])
    assert frame.to_picture(input_size[1] / 2, input_size[0] / 2) == pytest.approx((width / 2, height / 2))


@pytest.mark.parametrize("size", [(2994, 3000), (5, 7), (1, 900), (16_384, 1)], ids="{0[0]}x{0[1]}".format)
def test_pictures_of_every_shape_are_prepared(size: Size) -> None:
    prepared = prepare(Picture(Image.new("RGB", size, (7, 8, 9)), "PNG"), (384, 300))
    assert prepared.image.shape == (384, 300, 3)
    assert (prepared.image == (7, 8, 9)).all()


@given(picture_size=st.tuples(sides, sides), factors=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)))
@repeatable
def test_a_frame_of_a_shrunk_picture_shows_the_same_place(picture_size: Size, factors: tuple[float, float]) -> None:
    frame = Frame.shortest_side(picture_size, (224, 160))
    x, y = frame.to_picture(30.0, 200.0)
    assert frame.scaled(*factors).to_picture(30.0, 200.0) == pytest.approx((x * factors[0], y * factors[1]))


def cubic(length: int, start: float, seen: float, samples: int) -> Float64[np.ndarray, "samples length"]:
    """The antialiased cubic filter of Keys (1981), a = -1/2: how much of each pixel goes into each sample."""
    step = seen / samples
    centres = start + (np.arange(samples)[:, None] + 0.5) * step
    x = np.abs(np.arange(length) + 0.5 - centres) / max(step, 1.0)
    weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("size", [(160, 120), (50, 77), (9, 8)], ids=["larger", "other shape", "smaller"])
def test_the_model_input_is_the_bicubic_resize_of_what_is_seen(size: Size) -> None:
    pixels = np.random.default_rng(0).integers(60, 190, (size[1], size[0], 3), dtype=np.uint8)
    prepared = prepare(Picture(Image.fromarray(pixels), "PNG"), (32, 40))
    frame = prepared.frame
    rows, columns = cubic(size[1], frame.top_px, frame.height_px, 32), cubic(size[0], frame.left_px, frame.width_px, 40)
    expected = np.einsum("yr,xc,rck->yxk", rows, columns, pixels)
    assert np.abs(prepared.image - np.clip(expected, 0, 255)).max() < 0.51


def test_a_much_larger_picture_is_not_aliased() -> None:
    """Lines finer than the model's pixels turn into their mean."""
    lines = np.zeros((900, 1200, 3), np.uint8)
    lines[:, ::2], lines[::3] = 240, 120
    seen = prepare(Picture(Image.fromarray(lines), "PNG"), (32, 32)).image
    assert np.abs(seen - lines.mean()).max() <= 1


def spot(width: int, height: int, x: float, y: float, sigma_px: float) -> Rgb:
    """A bright Gaussian spot in a dark picture, its centre at (x, y); a pixel's centre is at +0.5."""
    columns, rows = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    light = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma_px**2))
    return np.asarray(np.rint(40 + 200 * light)[..., None].repeat(3, axis=-1), np.uint8)


def centroid(image: Rgb) -> tuple[float, float]:
    light = np.clip(image[..., 0].astype(float) - 50, 0, None)
    rows, columns = np.indices(light.shape) + 0.5
    return float((light * columns).sum() / light.sum()), float((light * rows).sum() / light.sum())


@given(
    width=st.integers(30, 300),
    height=st.integers(30, 300),
    input_size=st.tuples(st.integers(24, 96), st.integers(24, 96)),
    orientation=st.integers(1, 8),
    share=st.tuples(shares, shares),
)
@settings(max_examples=100, derandomize=True, database=None, deadline=None)
def test_a_spot_seen_by_the_model_lies_where_it_was_drawn(
    width: int, height: int, input_size: Size, orientation: int, share: tuple[float, float]
) -> None:
    frame = Frame.shortest_side((width, height), input_size)
    px_per_input_px = frame.width_px / frame.input_width_px
    sigma_px = max(1.0, px_per_input_px)
    margin_px = min(3.5 * sigma_px, frame.width_px / 2, frame.height_px / 2)
    x = frame.left_px + margin_px + share[0] * (frame.width_px - 2 * margin_px)
    y = frame.top_px + margin_px + share[1] * (frame.height_px - 2 * margin_px)
    stored = turned(spot(width, height, x, y, sigma_px), orientation)
    picture = decode(encoded(Image.fromarray(stored), "PNG", exif=exif(orientation)), Limits())
    prepared = prepare(picture, input_size)
    assert picture.image.size == (width, height)
    found = prepared.frame.to_picture(*centroid(prepared.image))
    assert np.abs(np.subtract(found, (x, y))).max() <= 0.5 * px_per_input_px


@pytest.mark.parametrize(
    ("size", "expected"),
    [((4000, 3000), (1024, 768)), ((2, 5000), (1, 1024)), ((1024, 10), (1024, 10)), ((300, 200), (300, 200))],
    ids=["large", "very narrow", "just fits", "small"],
)
def test_a_preview_is_bounded_and_keeps_the_picture(size: Size, expected: Size) -> None:
    picture = Picture(Image.linear_gradient("L").resize(size).convert("RGB"), "PNG")
    shrunk = preview(picture, 1024)
    assert (shrunk.size, shrunk.mode) == (expected, "RGB")
    again = np.asarray(shrunk.resize((1, 16)), int)
    assert np.abs(again - np.asarray(picture.image.resize((1, 16)), int)).max() <= 2


@given(
    size=st.tuples(st.integers(1, 1500), st.integers(1, 1500)),
    reduced_by=st.sampled_from([1, 2, 4, 8]),
    ends_first=st.booleans(),
    longest_side_px=st.integers(32, 400),
)
@example(size=(1, 1500), reduced_by=8, ends_first=True, longest_side_px=32)
@repeatable
def test_a_preview_has_the_shape_of_the_picture_and_no_other_colour(
    size: Size, reduced_by: int, ends_first: bool, longest_side_px: int
) -> None:
    stored = -(-size[0] // reduced_by), -(-size[1] // reduced_by)
    over = stored[0] - size[0] / reduced_by, stored[1] - size[1] / reduced_by
    overhang = (*over, 0.0, 0.0) if ends_first else (0.0, 0.0, *over)
    picture = Picture(Image.new("RGB", stored, (9, 99, 200)), "JPEG", (), reduced_by, overhang)
    assert (picture.width_px, picture.height_px) == size
    scale = min(longest_side_px / max(size), 1 / reduced_by)
    shrunk = preview(picture, longest_side_px)
    assert shrunk.size == (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    assert shrunk.getcolors() == [(shrunk.width * shrunk.height, (9, 99, 200))]


def test_small_pictures_are_their_own_preview() -> None:
    picture = Picture(Image.linear_gradient("L").convert("RGB"), "PNG")
    assert preview(picture, 256) == picture.image
