"""Laws of the faithfulness figures, on toys whose right answers are known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import spsolve
from scipy.stats import pearsonr

from app.drawing.overlay import Style, draw
from app.explain.fine import shifted
from app.pictures.rectangle import Rectangle
from app.shapes import Bool, Float, UInt8
from training.heatmaps.faithfulness import (
    Heatmap,
    Score,
    blurred,
    correlation,
    correlation_after_shift,
    deletion,
    drop_and_increase,
    energy_inside,
    enlarge,
    exchange_curve,
    insertion,
    mean_colour,
    pointing,
    road,
)
from training.heatmaps.imputation import impute

SIDE = 48
LESION = (slice(10, 26), slice(14, 34))  # 320 of 2304 pixels


@pytest.fixture
def mask() -> Bool[np.ndarray, "h w"]:
    """Where the toys look."""
    inside = np.zeros((SIDE, SIDE), bool)
    inside[LESION] = True
    return inside


@pytest.fixture
def image(mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """A noisy bright lesion on a noisy darker ground."""
    noise = np.random.default_rng(0).integers(0, 40, (SIDE, SIDE, 3))
    return (np.where(mask[..., None], 200, 60) + noise).astype(np.uint8)


def brightness_of(region: Bool[np.ndarray, "h w"]) -> Score:
    """A model whose score is the mean brightness of one region, and of nothing else."""
    return lambda pictures: pictures[:, region].mean(axis=(1, 2)) / 255


def noise_map(seed: int) -> Heatmap:
    """Values on a coarse grid, enlarged as those of a model are."""
    return enlarge(np.random.default_rng(seed).normal(size=(6, 6)), (SIDE, SIDE))


def black(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Nothing at all."""
    return np.zeros_like(image)


def test_the_region_that_the_score_is_made_of_is_the_best_map_and_its_inverse_the_worst(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
) -> None:
    score, perfect = brightness_of(mask), mask.astype(np.float32)
    for seed in range(3):
        other = noise_map(seed)
        for heatmap_a, heatmap_b in ((perfect, other), (other, -perfect)):
            assert insertion(score, image, heatmap_a, black(image)) > insertion(score, image, heatmap_b, black(image))
            assert deletion(score, image, heatmap_a, black(image)) < deletion(score, image, heatmap_b, black(image))
            assert road(score, image, heatmap_a) > road(score, image, heatmap_b)
        assert pointing(perfect, mask) == 1 >= pointing(other, mask)
        assert energy_inside(perfect, mask) == 1 > energy_inside(other, mask)


def test_insertion_and_deletion_of_a_score_that_counts_pixels_are_areas_known_in_closed_form() -> None:
    """White gives way to black, and the score is the mean over a fifth of the picture, seen first or last."""
    white, everything = np.full((10, 10, 3), 255, np.uint8), np.arange(100, dtype=np.float32).reshape(10, 10)
    score = brightness_of(everything >= 80)
    # Within the first two steps of ten the score falls from 1 to 0 in a straight line, and then stays.
    assert deletion(score, white, everything, black(white)) == pytest.approx(0.1)
    assert insertion(score, white, everything, black(white)) == pytest.approx(0.9)
    assert deletion(score, white, -everything, black(white)) == pytest.approx(0.9)
    np.testing.assert_allclose(
        exchange_curve(score, white, black(white), everything, steps=5), [1, 0, 0, 0, 0, 0], atol=1e-12
    )


@given(seed=st.integers(0, 1000), factor=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_only_the_order_of_the_values_counts_for_exchanges(seed: int, factor: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (12, 12, 3)).astype(np.uint8)
    heatmap = rng.integers(0, 30, (12, 12)).astype(np.float64)  # with equal values
    score = brightness_of(rng.random((12, 12)) < 0.3)
    changed = np.exp(heatmap / 40) * factor + shift
    for figure in (insertion, deletion):
        expected = figure(score, picture, heatmap, mean_colour(picture))
        assert figure(score, picture, changed, mean_colour(picture)) == expected


def test_what_comes_in_first_goes_out_last(image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> None:
    """The picture inserted highest first is the picture deleted lowest first, read backwards."""
    heatmap = np.random.default_rng(0).permutation(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.float32)
    forth = exchange_curve(brightness_of(mask), black(image), image, heatmap)
    back = exchange_curve(brightness_of(mask), image, black(image), -heatmap)
    np.testing.assert_allclose(forth, back[::-1])


def test_random_maps_are_at_chance(image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> None:
    score, maps = brightness_of(mask), [noise_map(seed) for seed in range(100)]
    whole = score(image[None])[0]
    assert np.mean([deletion(score, image, one, black(image)) for one in maps]) == pytest.approx(whole / 2, abs=0.04)
    assert np.mean([road(score, image, one) for one in maps[:15]]) == pytest.approx(0, abs=0.1)
    assert np.mean([energy_inside(one, mask) for one in maps]) == pytest.approx(mask.mean(), abs=0.03)
    places = [np.roll(np.eye(1, SIDE * SIDE).reshape(SIDE, SIDE), n, (0, 1)) for n in np.ndindex(SIDE, SIDE)]
    assert np.mean([pointing(one, mask) for one in places]) == pytest.approx(mask.mean())


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7])
def test_a_constant_map_is_at_chance_and_not_an_error(
    value: float, image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
) -> None:
    """It has no order, and so its pixels come in random order; enlarged, it is still constant to the last bit."""
    constant = enlarge(np.full((7, 5), value, np.float32), (SIDE, SIDE))
    score = brightness_of(mask)
    whole = score(image[None])[0]
    assert np.ptp(constant) == 0
    assert deletion(score, image, constant, black(image)) == pytest.approx(whole / 2, abs=0.03)
    assert insertion(score, image, constant, black(image)) == pytest.approx(whole / 2, abs=0.03)
    assert abs(road(score, image, constant)) < 0.05
    assert pointing(constant, mask) == pytest.approx(mask.mean())
    assert energy_inside(constant, mask) == pytest.approx(mask.mean() if value > 0 else 0)
    assert drop_and_increase(score, image, constant) == ((0, 0) if value > 0 else (1, 0))
    assert correlation(constant, constant) == 1
    assert correlation(constant, noise_map(0)) == 0


def test_the_seed_alone_decides(image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> None:
    score, flat = brightness_of(mask), np.zeros((SIDE, SIDE), np.float32)
    deletions = [deletion(score, image, flat, black(image), seed=seed) for seed in (3, 3, 4)]
    roads = [road(score, image, flat, seed=seed) for seed in (3, 3, 4)]
    for found in (deletions, roads):
        assert found[0] == found[1] != found[2]


def test_drop_and_increase_are_the_papers(image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> None:
    half = np.where(mask, 0.5, np.where(np.arange(SIDE) == 0, 1.0, -1.0)).astype(np.float32)
    assert drop_and_increase(brightness_of(mask), image, half).drop == pytest.approx(0.5, abs=0.01)
    assert drop_and_increase(brightness_of(mask), image, mask.astype(np.float32)) == (0, 0)
    darkness = brightness_of(~mask)
    dark: Score = lambda pictures: 1 - darkness(pictures)  # noqa: E731
    assert drop_and_increase(dark, image, mask.astype(np.float32)) == (0, 1)


def test_the_more_evidence_in_the_mask_the_more_energy(mask: Bool[np.ndarray, "h w"]) -> None:
    shares = [energy_inside(np.where(mask, weight, 1.0), mask) for weight in (0, 0.5, 1, 4, 1e6)]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[2] == pytest.approx(mask.mean())
    assert energy_inside(np.where(mask, 1.0, -5.0), mask) == 1  # what speaks against the class is no evidence for it


def test_several_maxima_count_by_their_share(mask: Bool[np.ndarray, "h w"]) -> None:
    heatmap = np.zeros((SIDE, SIDE))
    heatmap[11, 20] = heatmap[0, 0] = heatmap[12, 21] = heatmap[47, 1] = 1
    assert pointing(heatmap, mask) == 0.5


def test_enlarged_values_are_those_that_an_overlay_draws() -> None:
    """The overlay is an independent account of where a cell lies in the picture; it has 255 steps of colour."""
    heatmap = np.array([[0.0, 1.0, 0.2], [0.5, 0.1, 0.9]])
    style = Style(colormap="viridis", alpha_min=1.0, alpha_max=1.0)
    grey = Image.new("RGB", (60, 40), "grey")
    drawn = draw(grey, heatmap, Rectangle(0.0, 0.0, 60.0, 40.0), style).picture.astype(int)
    levels = draw(
        Image.new("RGB", (256, 1)), np.linspace(0, 1, 256)[None], Rectangle(0.0, 0.0, 256.0, 1.0), style
    ).picture[0]
    nearest = np.abs(drawn[:, :, None] - levels.astype(int)).sum(axis=-1).argmin(axis=-1) / 255
    seen = (slice(1, -1), slice(1, -1))  # inside the line around what the model saw
    enlarged = enlarge(heatmap, (40, 60))
    bright = enlarged[seen] > 0.1  # colours fade in near zero
    np.testing.assert_allclose(enlarged[seen][bright], nearest[seen][bright], atol=0.012)


def test_correlation_is_pearsons(image: UInt8[np.ndarray, "h w 3"]) -> None:
    a, b = noise_map(1), noise_map(2)
    assert correlation(a, b) == pytest.approx(pearsonr(a.ravel(), b.ravel()).statistic)
    assert correlation(a, 3 * a - 7) == pytest.approx(1)
    assert correlation(a, -a) == pytest.approx(-1)
    assert correlation(np.full(a.shape, 0.1), a) == 0  # its mean is not quite 0.1


@pytest.mark.parametrize("by", [(3, -5), (-4, 0), (0, 7)])
def test_a_map_that_moves_with_the_picture_correlates_fully_and_one_that_stays_does_not(
    by: tuple[int, int], image: UInt8[np.ndarray, "h w 3"]
) -> None:
    moved = shifted(image, *by)
    follows, stays = image.mean(axis=-1), noise_map(5)
    assert correlation_after_shift(follows, moved.mean(axis=-1), *by) == pytest.approx(1)
    assert correlation_after_shift(stays, stays, *by) < 0.99
    assert moved.shape == image.shape
    np.testing.assert_array_equal(shifted(moved, -by[0], -by[1])[10:-10, 10:-10], image[10:-10, 10:-10])


def test_a_blurred_picture_is_scipys_inside_and_keeps_a_flat_one(image: UInt8[np.ndarray, "h w 3"]) -> None:
    expected = gaussian_filter(image.astype(float), (2, 2, 0), truncate=8)
    inside = (slice(16, -16), slice(16, -16))
    np.testing.assert_allclose(blurred(image, 2.0)[inside], expected[inside], atol=0.51)
    assert np.unique(blurred(np.full((9, 12, 3), 77, np.uint8), 3.0)) == [77]


def exactly(image: UInt8[np.ndarray, "h w 3"], removed: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "n 3"]:
    """The removed pixels of ROAD's equations, each written down and solved by a sparse factorization."""
    number = {pixel: n for n, pixel in enumerate(zip(*np.nonzero(removed), strict=True))}
    left, right = {}, np.zeros((len(number), 3))
    for (row, column), n in number.items():
        left[n, n] = 0.0
        for down, across in np.ndindex(3, 3):
            there = (row + down - 1, column + across - 1)
            if there == (row, column) or not (0 <= there[0] < len(image) and 0 <= there[1] < image.shape[1]):
                continue
            weight = 1 / 6 if 1 in (down, across) else 1 / 12
            left[n, n] += weight
            if there in number:
                left[n, number[there]] = -weight
            else:
                right[n] += weight * image[there]
    rows, columns = zip(*left, strict=True)
    return np.asarray(spsolve(csr_matrix((list(left.values()), (rows, columns))), right))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("smooth", [0, 2])
def test_imputed_pixels_solve_roads_equations(smooth: float, fraction: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(128, 40, (38, 51, 3)).clip(0, 255).astype(np.uint8)
    heatmap = enlarge(gaussian_filter(rng.normal(size=(7, 7)), smooth), image.shape[:2])
    solves_roads_equations(image, heatmap > np.quantile(heatmap, 1 - fraction), rng)


def far_from_kept_pixels(shape: tuple[int, int]) -> Iterator[Bool[np.ndarray, "h w"]]:
    """Removed pixels with few kept ones at a corner, in a dot, in lines, and with walls that leave long ways around."""
    for kept in ((slice(3), slice(3)), (50, 70), (slice(None, None, 16), slice(None))):
        removed = np.ones(shape, bool)
        removed[kept] = False
        yield removed
    maze = np.ones(shape, bool)
    maze[4::8, : shape[1] - 3] = maze[8::8, 3:] = False
    yield maze


def test_imputed_pixels_far_from_kept_ones_solve_roads_equations() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(128, 40, (101, 112, 3)).clip(0, 255).astype(np.uint8)
    for removed in far_from_kept_pixels(image.shape[:2]):
        solves_roads_equations(image, removed, rng)


def solves_roads_equations(
    image: UInt8[np.ndarray, "h w 3"], removed: Bool[np.ndarray, "h w"], rng: np.random.Generator
) -> None:
    filled = impute(image, removed, rng, noise=0.0)
    np.testing.assert_array_equal(filled[~removed], image[~removed])
    assert np.abs(filled[removed] - exactly(image, removed)).max() < 1


def test_imputation_continues_a_slope_and_adds_the_noise_that_it_says() -> None:
    slope = np.repeat(np.add.outer(2 * np.arange(40), np.arange(60))[..., None], 3, axis=-1).astype(np.uint8)
    removed = np.zeros((40, 60), bool)
    removed[8:30, 5:50] = True
    smooth = impute(slope, removed, np.random.default_rng(0), noise=0.0)
    assert np.abs(smooth.astype(int) - slope).max() <= 1
    noisy = impute(slope, removed, np.random.default_rng(0), noise=0.02).astype(float) - smooth
    assert noisy[removed].std() == pytest.approx(0.02 * 255, rel=0.05)
    assert not noisy[~removed].any()


def test_a_picture_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(ValueError, match="every pixel is removed"):
        impute(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), bool), np.random.default_rng(0))
