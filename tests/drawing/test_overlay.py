"""What a user sees in an overlay: where the colours are, what they stand for, and what stays as it was."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.drawing.overlay import COLORMAPS, Drawing, Legend, Style, legend_of
from app.drawing.overlay import draw as draw_on_image
from app.errors import BadParameter
from app.pictures.rectangle import Rectangle

OPAQUE = Style("magma", alpha_min=1.0, alpha_max=1.0)  # magma has no colour twice, so colours tell levels
RAMP = np.array([[0, 1]], dtype=np.float32)


def draw(picture: np.ndarray, heatmap: np.ndarray, seen: Rectangle, style: Style) -> Drawing:
    return draw_on_image(Image.fromarray(picture), heatmap, seen, style)


def noisy(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def flat(height: int, width: int, brightness: int) -> np.ndarray:
    return np.full((height, width, 3), brightness, dtype=np.uint8)


def whole(picture: np.ndarray) -> Rectangle:
    return Rectangle(0.0, 0.0, float(picture.shape[1]), float(picture.shape[0]))


def signed(height: int = 7, width: int = 7) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((height, width)).astype(np.float32)


def opencv_colours(colormap: str) -> np.ndarray:
    bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], getattr(cv2, f"COLORMAP_{colormap.upper()}"))
    return np.asarray(bgr[:, 0, ::-1])


def levels(pixels: np.ndarray) -> np.ndarray:
    """Each pixel's place on magma's scale, or -1 where its colour is not on it."""
    level_of = {tuple(colour): level for level, colour in enumerate(opencv_colours("magma").tolist())}
    found = [level_of.get(tuple(pixel), -1) for pixel in pixels.reshape(-1, 3).tolist()]
    return np.array(found).reshape(pixels.shape[:-1])


def opacity(heatmap: np.ndarray, style: Style) -> np.ndarray:
    """How much of the picture each pixel hides: the part of black against white that no longer shows."""
    black, white = (
        draw(flat(30, 400, grey), heatmap, Rectangle(0.0, 0.0, 400.0, 30.0), style).picture for grey in (0, 255)
    )
    return np.asarray(1 - (white.astype(float) - black).mean(axis=-1) / 255)


def test_below_the_threshold_the_picture_is_bare_and_above_it_as_without() -> None:
    picture, seen = noisy(40, 200), Rectangle(0.0, 0.0, 200.0, 40.0)
    without, cut = (draw(picture, RAMP, seen, Style(threshold=part)).picture for part in (0.0, 0.5))
    bare = draw(picture, RAMP, seen, Style(alpha_max=0.0)).picture
    inner = slice(2, -2)  # within the line around what the model saw
    assert np.array_equal(cut[inner, 2:99], bare[inner, 2:99]) and not np.array_equal(
        without[inner, 2:99], bare[inner, 2:99]
    )
    assert np.array_equal(cut[inner, 101:-2], without[inner, 101:-2])


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_a_threshold_outside_the_scale_is_refused(threshold: float) -> None:
    with pytest.raises(BadParameter, match="choose a fraction from 0 to less than 1"):
        Style(threshold=threshold)


@pytest.mark.parametrize("cell", [(1, 1), (2, 3), (3, 5)])
@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((200, 300), Rectangle(50.0, 0.0, 200.0, 200.0)),
        ((300, 201), Rectangle(0.0, 49.5, 201.0, 201.0)),
        ((200, 320), Rectangle(33.3, 21.7, 250.4, 140.2)),
        ((90, 224), Rectangle(-0.4, -0.4, 224.8, 90.8)),
    ],
)
def test_the_hottest_pixel_is_at_the_hottest_cells_centre(
    size: tuple[int, int], seen: Rectangle, cell: tuple[int, int]
) -> None:
    heatmap = np.zeros((5, 7), dtype=np.float32)
    heatmap[cell] = 1
    level = levels(draw(noisy(*size), heatmap, seen, OPAQUE).picture)
    hottest = np.argwhere(level == level.max()).mean(axis=0) + 0.5
    centre = (
        seen.top_px + (cell[0] + 0.5) * seen.height_px / 5,
        seen.left_px + (cell[1] + 0.5) * seen.width_px / 7,
    )
    assert level.max() > 240
    np.testing.assert_allclose(hottest, centre, atol=1)


def test_between_centres_evidence_goes_linearly_and_beyond_them_stays() -> None:
    level = levels(draw(noisy(1, 200), RAMP, Rectangle(0.0, 0.0, 200.0, 1.0), OPAQUE).picture)[0]
    expected = np.interp(np.arange(200) + 0.5, [50, 150], [0, 255])
    visible = expected > 0.06 * 255
    np.testing.assert_allclose(level[visible], expected[visible], atol=0.6)


def test_a_mirrored_picture_with_a_mirrored_map_is_drawn_mirrored() -> None:
    picture, heatmap, seen = noisy(60, 90), signed(), Rectangle(11.25, 3.5, 50.5, 50.5)
    mirrored = Rectangle(90 - 11.25 - 50.5, 3.5, 50.5, 50.5)
    drawing = draw(picture, heatmap, seen, Style()).picture.astype(int)
    other = draw(picture[:, ::-1], heatmap[:, ::-1], mirrored, Style()).picture.astype(int)
    np.testing.assert_allclose(other[:, ::-1], drawing, atol=4)  # a level of the colour map, from rounding


def test_what_the_model_did_not_see_is_grey_and_dark_behind_a_white_line() -> None:
    picture = flat(100, 160, 200)
    picture[..., 0] = 240
    drawing = draw(picture, np.ones((7, 7), dtype=np.float32), Rectangle(30.0, 0.0, 100.0, 100.0), Style()).picture
    left, right = drawing[:, :30], drawing[:, 130:]
    for outside in (left, right[:, ::-1]):
        assert (outside == outside[..., :1]).all()
        assert (outside[:, -1] == 255).all()
        assert (outside[:, :-1] < 100).all()
    assert (drawing[:, 30:130].std(axis=-1) > 0).all()


def test_what_the_model_did_not_see_keeps_its_brightness_in_proportion_on_all_four_sides() -> None:
    picture, seen = noisy(80, 90), Rectangle(20.0, 15.0, 40.0, 30.0)
    drawing = draw(picture, signed(), seen, Style()).picture
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    outside = np.ones(grey.shape, dtype=bool)
    outside[14:46, 19:61] = False  # the region seen and the line around it
    np.testing.assert_allclose(drawing[outside], np.repeat(0.4 * grey[outside, None], 3, axis=1), atol=1)


def test_the_users_picture_is_not_written_to() -> None:
    picture = Image.fromarray(noisy(200, 300))
    before = picture.copy()
    for heatmap in (signed(), -np.abs(signed())):
        draw_on_image(picture, heatmap, Rectangle(50.0, 0.0, 200.0, 200.0), Style())
    assert picture == before


def test_no_opacity_leaves_what_was_seen_bit_for_bit() -> None:
    picture = noisy(256, 300)
    drawing = draw(picture, signed(), Rectangle(22.0, 0.0, 256.0, 256.0), Style(alpha_min=0.0, alpha_max=0.0)).picture
    np.testing.assert_array_equal(drawing[:, 22:278], picture[:, 22:278])


def test_zero_and_negative_evidence_leave_the_picture_bit_for_bit() -> None:
    picture = noisy(50, 200)
    for cold in (0, -3):
        heatmap = np.array([[cold, cold, 1, 1]], dtype=np.float32)
        drawing = draw(picture, heatmap, whole(picture), OPAQUE).picture
        np.testing.assert_array_equal(drawing[:, :75], picture[:, :75])
        assert (drawing[:, 130:] != picture[:, 130:]).any(axis=-1).mean() > 0.99


@pytest.mark.parametrize("least", [20.0, 10_000.0], ids=["wide scale", "narrow scale"])
@pytest.mark.parametrize("colormap", COLORMAPS)
def test_full_opacity_shows_the_colour_map_alone_and_as_opencv_has_it(colormap: str, least: float) -> None:
    style = Style(colormap, alpha_min=1.0, alpha_max=1.0, clip=(0.0, 100.0))
    heatmap = least + np.arange(256.0)[None]  # a level each, and none so weak that it fades
    one, other = (draw(noisy(1, 256, seed), heatmap, Rectangle(0.0, 0.0, 256.0, 1.0), style).picture for seed in (0, 2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one[0].astype(int), opencv_colours(colormap), atol=1)


def test_viridis_ends_where_its_authors_end_it() -> None:
    style = Style("viridis", alpha_min=1.0, alpha_max=1.0)
    top = draw(noisy(4, 4), np.ones((1, 1), dtype=np.float32), Rectangle(0.0, 0.0, 4.0, 4.0), style).picture
    np.testing.assert_allclose(top, np.broadcast_to([253, 231, 37], (4, 4, 3)), atol=2)


def test_uniform_opacity_is_the_same_wherever_there_is_evidence() -> None:
    hidden = opacity(RAMP + np.float32(0.1), Style(alpha_min=0.4, alpha_max=0.4))
    np.testing.assert_allclose(hidden, 0.4, atol=0.01)


def test_growing_opacity_grows_with_the_evidence_from_its_minimum_to_its_maximum() -> None:
    hidden = opacity(RAMP, Style(alpha_min=0.2, alpha_max=0.9))[0]
    assert (np.diff(hidden) > -0.006).all()  # a grey level is 0.004
    assert hidden[0] == pytest.approx(0, abs=0.01)
    assert hidden[-1] == pytest.approx(0.9, abs=0.01)
    assert hidden[200] == pytest.approx(0.55, abs=0.02)


def test_colours_fade_in_above_zero_evidence_without_an_edge() -> None:
    assert np.abs(np.diff(opacity(RAMP, Style(alpha_min=0.5, alpha_max=0.5))[0])).max() < 0.08


def test_clipping_to_percentiles_raises_contrast_and_is_told_in_the_legend() -> None:
    attention = np.abs(signed()) / 20 + np.float32(0.8)
    picture = noisy(128, 128)
    plain = draw(picture, attention, whole(picture), OPAQUE)
    clipped = draw(picture, attention, whole(picture), replace(OPAQUE, clip=(5.0, 95.0)))
    assert levels(clipped.picture).std() > 4 * levels(plain.picture).std()
    assert (levels(clipped.picture) == 255).any() and (levels(clipped.picture) == 0).any()
    assert plain.legend.clip is None and (plain.legend.low, plain.legend.high) == (0, plain.legend.maximum)
    assert clipped.legend.clip == (5, 95)
    assert (clipped.legend.low, clipped.legend.high) == pytest.approx(np.percentile(attention, [5, 95]))


def test_percentiles_are_those_of_the_positive_cells() -> None:
    heatmap = np.array([[-9, -9, -9, 0, 1, 2, 3]], dtype=np.float32)
    legend = legend_of(heatmap, Style(clip=(0.0, 50.0)))
    assert (legend.low, legend.high, legend.minimum, legend.maximum) == (1, 2, -9, 3)


@pytest.mark.parametrize("clip", [None, (2.0, 98.0)])
def test_the_legend_says_what_was_drawn(clip: tuple[float, float] | None) -> None:
    style = Style("magma", clip=clip)
    picture, heatmap = noisy(30, 30), signed()
    legend = draw(picture, heatmap, whole(picture), style).legend
    assert legend == legend_of(heatmap, style)
    assert (legend.colormap, legend.no_positive_evidence) == ("magma", False)
    assert (legend.minimum, legend.maximum) == (heatmap.min(), heatmap.max())


@pytest.mark.parametrize(
    "style",
    [Style(), Style("magma", 0.5, 0.5), Style("jet", 0.2, 0.9), Style("cividis", 0.1, 1.0, clip=(20.0, 90.0))],
)
def test_a_drawing_is_the_picture_blended_with_the_colours_as_the_style_says(style: Style) -> None:
    """Against the definition in float64: one grey level is lost to rounding in bytes, and no more."""
    picture, heatmap = noisy(90, 120), signed()
    drawing = draw(picture, heatmap, whole(picture), style)
    legend = drawing.legend
    rows = np.array([np.interp(np.arange(120) + 0.5, (np.arange(7) + 0.5) * 120 / 7, row) for row in heatmap])
    value = np.array([np.interp(np.arange(90) + 0.5, (np.arange(7) + 0.5) * 90 / 7, column) for column in rows.T]).T
    level = np.rint(255 * np.clip((value - legend.low) / (legend.high - legend.low), 0, 1)).astype(np.uint8)
    alpha = style.alpha_min + (style.alpha_max - style.alpha_min) * level / 255
    weight = (np.clip(value / legend.high / 0.05, 0, 1) * alpha)[..., None]
    colours = opencv_colours(style.colormap)[level]
    np.testing.assert_allclose(drawing.picture, weight * colours + (1 - weight) * picture, atol=1.6)


def test_evidence_far_beyond_the_clipped_scale_has_the_top_colour() -> None:
    heatmap = np.full((1, 5), 1e-12, dtype=np.float32)
    heatmap[0, 2] = 1
    picture = noisy(10, 100)
    drawing = draw(picture, heatmap, whole(picture), replace(OPAQUE, clip=(0.0, 50.0)))
    assert drawing.legend.high < 1e-11
    assert (levels(drawing.picture)[:, 40:60] == 255).all()


@pytest.mark.parametrize("value", [0, -1e-9, -2])
@pytest.mark.parametrize("clip", [None, (2.0, 98.0)])
def test_a_map_without_positive_evidence_is_not_coloured_and_says_so(
    value: float, clip: tuple[float, float] | None
) -> None:
    picture, as_stored = noisy(200, 300), float(np.float32(value))
    drawing = draw(picture, np.full((7, 7), value, np.float32), whole(picture), Style(clip=clip))
    assert drawing.legend == Legend("viridis", 0.0, 0.0, as_stored, as_stored, clip, True)
    np.testing.assert_array_equal(drawing.picture[:150], picture[:150])
    band = drawing.picture[-15:]
    assert (band == band[..., :1]).all() and (band > 200).any() and (band == 0).any()


def test_a_picture_too_small_for_letters_is_not_covered_by_them() -> None:
    picture = noisy(12, 12)
    drawing = draw(picture, -np.abs(signed()), whole(picture), Style())
    assert drawing.legend.no_positive_evidence
    np.testing.assert_array_equal(drawing.picture, picture)


def test_rounding_above_zero_is_no_positive_evidence() -> None:
    heatmap = np.array([[-3, 1e-7]], dtype=np.float32)
    assert legend_of(heatmap, Style()).no_positive_evidence
    assert not legend_of(np.array([[-3, 0.01]], dtype=np.float32), Style()).no_positive_evidence


@pytest.mark.parametrize("value", [1e-37, 0.02, 5])
@pytest.mark.parametrize("clip", [None, (2.0, 98.0)])
def test_a_constant_positive_map_is_evenly_of_the_top_colour(value: float, clip: tuple[float, float] | None) -> None:
    """Its rounding is not stretched over the colour map, whether percentiles are clipped or not."""
    rounding = 1 + signed() * 1e-7
    heatmap = (value * rounding).astype(np.float32)
    picture = noisy(50, 50)
    drawing = draw(picture, heatmap, whole(picture), replace(OPAQUE, clip=clip))
    assert set(np.unique(levels(drawing.picture))) <= {254, 255}
    assert drawing.legend.low == 0 and drawing.legend.high == pytest.approx(value, rel=1e-5)


@settings(deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    sign=st.sampled_from([-1, 1]),
    clip=st.sampled_from([None, (2.0, 98.0)]),
)
def test_pictures_of_any_size_are_drawn_and_only_what_was_seen_is_coloured(
    size: tuple[int, int], grid: tuple[int, int], sign: int, clip: tuple[float, float] | None
) -> None:
    height, width = size
    side = float(min(size))
    seen = Rectangle((width - side) / 2, (height - side) / 2, side, side)
    heatmap = sign * (np.abs(signed(*grid)) + np.float32(0.1))
    drawing = draw(noisy(height, width), heatmap, seen, Style(clip=clip))
    picture = drawing.picture
    assert picture.shape == (height, width, 3) and picture.dtype == np.uint8
    assert drawing.legend.no_positive_evidence == (sign < 0)
    outside = np.ones(size, dtype=bool)
    rows, columns = (slice(math.floor(start), math.ceil(start + side)) for start in (seen.top_px, seen.left_px))
    outside[rows, columns] = False
    assert (picture[outside] == picture[outside][:, :1]).all()


def test_a_region_thinner_than_a_pixel_is_drawn_on_the_nearest_pixel() -> None:
    """A picture of 1 × 20000 px, shrunk to a preview: the model's square is a twentieth of a pixel."""
    drawing = draw(
        flat(1, 1024, 128), np.ones((7, 7), dtype=np.float32), Rectangle(511.97, 0.0, 0.05, 0.05), OPAQUE
    ).picture
    coloured = (drawing != drawing[..., :1]).any(axis=-1)
    assert np.argwhere(coloured).tolist() == [[0, 511]] or np.argwhere(coloured).tolist() == [[0, 512]]


@pytest.mark.parametrize(
    "seen",
    [
        Rectangle(60.0, 0.0, 10.0, 10.0),
        Rectangle(-10.0, 0.0, 10.0, 10.0),
        Rectangle(0.0, 5.0, 10.0, 0.0),
        Rectangle(0.0, math.nan, 5.0, 5.0),
    ],
)
def test_a_region_outside_the_picture_is_refused(seen: Rectangle) -> None:
    with pytest.raises(ValueError, match="outside the picture"):
        draw(noisy(40, 60), signed(), seen, Style())


def test_a_contour_runs_where_the_evidence_crosses_its_part_of_the_scale() -> None:
    picture = flat(60, 200, 128)
    plain, lined = (draw(picture, RAMP, whole(picture), replace(OPAQUE, contour=part)).picture for part in (None, 0.25))
    changed = np.flatnonzero((plain != lined).any(axis=(0, 2)))
    # A ramp from 0 at pixel 50 to 1 at pixel 150.
    assert changed.min() >= 70 and changed.max() <= 80
    np.testing.assert_array_equal(lined[:, changed], lined[:1, changed].repeat(60, axis=0))
    assert {(0, 0, 0), (255, 255, 255)} <= {*map(tuple, lined[0, changed].tolist())}


def test_nothing_is_lined_where_everything_or_nothing_reaches_the_contour() -> None:
    picture = noisy(50, 50)
    for heatmap in (np.ones((3, 3), np.float32), -np.ones((3, 3), np.float32)):
        plain, lined = (draw(picture, heatmap, whole(picture), replace(OPAQUE, contour=c)) for c in (None, 0.5))
        np.testing.assert_array_equal(plain.picture, lined.picture)


def test_a_smaller_drawing_shows_the_same_at_its_size() -> None:
    picture, heatmap, seen = flat(300, 400, 90), signed(), Rectangle(50.0, 0.0, 300.0, 300.0)
    large = draw(picture, heatmap, seen, Style()).picture
    small = draw(picture, heatmap, seen, Style(size_px=100)).picture
    assert small.shape == (75, 100, 3)
    shrunk = np.asarray(Image.fromarray(large).resize((100, 75), Image.Resampling.BOX)).astype(int)
    off = np.abs(small[:, 14:86] - shrunk[:, 14:86])
    assert off.mean() < 0.5 and off.max() < 20  # the edge of what is coloured falls into other pixels
    assert draw(picture, heatmap, seen, Style(size_px=4000)).picture.shape == large.shape  # pixels are not invented


def test_on_a_wider_scale_the_same_map_is_drawn_weaker() -> None:
    picture, heatmap = noisy(40, 40), np.abs(signed())
    wider = legend_of(2 * heatmap, OPAQUE)
    drawing = draw_on_image(Image.fromarray(picture), heatmap, whole(picture), OPAQUE, wider)
    own = draw(picture, heatmap, whole(picture), OPAQUE)
    assert drawing.legend == wider
    visible = levels(own.picture) > 40
    np.testing.assert_allclose(2 * levels(drawing.picture)[visible], levels(own.picture)[visible], atol=2)


@pytest.mark.parametrize("contour", [0.0, 1.0, -0.1, math.nan])
def test_a_contour_off_the_scale_is_refused(contour: float) -> None:
    with pytest.raises(BadParameter, match="between 0 and 1"):
        Style(contour=contour)


def test_a_drawing_of_a_few_pixels_is_refused() -> None:
    with pytest.raises(BadParameter, match="32 px or more"):
        Style(size_px=31)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_heatmap_that_is_not_finite_is_refused(value: float) -> None:
    heatmap = signed()
    heatmap[2, 3] = value
    with pytest.raises(ValueError, match="not finite"):
        draw(noisy(20, 20), heatmap, Rectangle(0.0, 0.0, 20.0, 20.0), Style())


@pytest.mark.parametrize("alphas", [(-0.1, 0.5), (0.5, 1.1), (0.6, 0.5), (math.nan, 0.5), (0.5, math.nan)])
def test_an_opacity_out_of_range_is_refused_with_the_range(alphas: tuple[float, float]) -> None:
    with pytest.raises(BadParameter, match="from 0 to 1, and alpha_min not above alpha_max"):
        Style(alpha_min=alphas[0], alpha_max=alphas[1])


@pytest.mark.parametrize("clip", [(-1.0, 98.0), (2.0, 101.0), (50.0, 50.0), (98.0, 2.0), (math.nan, 98.0)])
def test_percentiles_out_of_range_are_refused_with_the_range(clip: tuple[float, float]) -> None:
    with pytest.raises(BadParameter, match="from 0 to 100, the lower one first"):
        Style(clip=clip)


def test_an_unknown_colour_map_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadParameter, match=r"'rainbow': choose one of viridis, inferno, .*jet"):
        Style(colormap="rainbow")
