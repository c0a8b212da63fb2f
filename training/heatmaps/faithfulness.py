"""Metrics of one heatmap: its faithfulness to the model, its localisation in a mask, and its stability.

All arrays have the size of the model's input. `image` is the model's input. `heatmap` is signed, with positive values
for evidence for the explained class, and has one value per pixel. `mask` is true on the object. Metrics that query the
model receive `score`, which maps pictures to the probability of the explained class. Pixels with equal values are
ordered randomly, so that a constant heatmap is no better than chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from app.shapes import Bool, Float, Float32, Int, UInt8
from training.heatmaps.imputation import impute

Image = UInt8[np.ndarray, "h w 3"]
Heatmap = Float[np.ndarray, "h w"]
Score = Callable[[UInt8[np.ndarray, "n h w 3"]], Float[np.ndarray, " n"]]

STEPS = 10
ROAD_FRACTIONS = (0.1, 0.3, 0.5)


class ConfidenceChange(NamedTuple):
    """How the score changes if only the heatmap's evidence is kept of a picture: `drop` and `increase`."""

    drop: float
    increase: float


def enlarge(heatmap: Float[np.ndarray, "grid_h grid_w"], size: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """Upsample a heatmap to a picture's size (height, width) in px.

    The interpolation is bilinear between the centres of the cells and constant beyond them, as in overlays. A constant
    heatmap stays exactly constant.
    """
    values = heatmap.astype(np.float64)
    for axis, (cells, pixels) in enumerate(zip(heatmap.shape, size, strict=True)):
        position = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
        before = position.astype(np.intp)
        fraction = np.expand_dims(position - before, 1 - axis)
        lower, upper = (values.take(index, axis) for index in (before, np.minimum(before + 1, cells - 1)))
        values = lower + fraction * (upper - lower)
    return values.astype(np.float32)


def exchange_curve(
    score: Score, before: Image, after: Image, heatmap: Heatmap, steps: int = STEPS, seed: int = 0
) -> Float[np.ndarray, " points"]:
    """Return the scores while pixels of `before` are replaced by those of `after`, highest in the heatmap first.

    Each of the `steps` steps replaces the same number of pixels. The first of the `steps + 1` scores is that of
    `before`, the last that of `after`.
    """
    order = _highest_first(heatmap, np.random.default_rng(seed))
    counts = np.rint(np.linspace(0, order.size, steps + 1)).astype(np.intp)
    pictures = np.repeat(before[None], steps + 1, axis=0)
    flat, source = pictures.reshape(steps + 1, -1, 3), after.reshape(-1, 3)
    for picture, count in zip(flat, counts, strict=True):
        picture[order[:count]] = source[order[:count]]
    return score(pictures)


def deletion(score: Score, image: Image, heatmap: Heatmap, blank: Image, steps: int = STEPS, seed: int = 0) -> float:
    """Return the deletion score (Petsiuk et al. 2018): lower is better.

    It is the mean score while pixels of the picture are replaced by those of `blank`, highest in the heatmap first,
    computed as the area under `exchange_curve` by the trapezoidal rule.
    """
    return _area(exchange_curve(score, image, blank, heatmap, steps, seed))


def insertion(score: Score, image: Image, heatmap: Heatmap, blank: Image, steps: int = STEPS, seed: int = 0) -> float:
    """Return the insertion score (Petsiuk et al. 2018): higher is better.

    It is the mean score while pixels of `blank` are replaced by those of the picture, highest in the heatmap first,
    computed as the area under `exchange_curve` by the trapezoidal rule.
    """
    return _area(exchange_curve(score, blank, image, heatmap, steps, seed))


def road(
    score: Score, image: Image, heatmap: Heatmap, fractions: Sequence[float] = ROAD_FRACTIONS, seed: int = 0
) -> float:
    """Return how much more the score falls without the highest pixels than without the lowest: higher is better.

    It is the mean over `fractions`, shares of the pixels, of the score without the lowest minus the score without the
    highest pixels. Both are removal orders of ROAD (Rong et al. 2022), and removed pixels are filled in by `impute`.
    Chance is 0. Raises ValueError for a fraction that removes all pixels.
    """
    rng = np.random.default_rng(seed)
    order = _highest_first(heatmap, rng)
    pictures = []
    for fraction in fractions:
        count = round(fraction * order.size)
        for chosen in (order[:count], order[order.size - count :]):
            removed = np.zeros(order.size, bool)
            removed[chosen] = True
            pictures.append(impute(image, removed.reshape(heatmap.shape), rng))
    scores = score(np.stack(pictures))
    return float((scores[1::2] - scores[::2]).mean())


def drop_and_increase(score: Score, image: Image, heatmap: Heatmap) -> ConfidenceChange:
    """Return the drop and the increase in confidence for one picture (Chattopadhay et al. 2018).

    Each pixel is multiplied by the heatmap's positive part, scaled to a maximum of 1, so that the rest is black. `drop`
    is the relative loss of the score, from 0 to 1; lower is better. `increase` is 1 if the score rises and 0 otherwise;
    higher is better. A heatmap that keeps the whole picture loses nothing, so these metrics favour large heatmaps.
    """
    evidence = np.maximum(heatmap, 0)
    weight = evidence / (evidence.max() or 1)
    kept = np.rint(image * weight[..., None]).astype(np.uint8)
    full_score, kept_score = score(np.stack([image, kept])).tolist()
    return ConfidenceChange(max(0.0, full_score - kept_score) / full_score, float(kept_score > full_score))


def pointing(heatmap: Heatmap, mask: Bool[np.ndarray, "h w"]) -> float:
    """Return whether the heatmap's maximum is in the mask (pointing game, Zhang et al. 2016): higher is better.

    There is no tolerance around the mask. If several pixels have the maximum, the result is their share in the mask.
    Chance is the mask's share of the picture.
    """
    return float(mask[heatmap == heatmap.max()].mean())


def energy_inside(heatmap: Heatmap, mask: Bool[np.ndarray, "h w"]) -> float:
    """Return the share of the heatmap's positive part inside the mask (Wang et al. 2020): higher is better.

    Chance is the mask's share of the picture. The result is 0 for a heatmap without positive values.
    """
    evidence = np.maximum(heatmap, 0).astype(np.float64)
    return float(evidence[mask].sum() / (evidence.sum() or 1))


def correlation(a: Heatmap, b: Heatmap) -> float:
    """Return the Pearson correlation of two heatmaps.

    The correlation of a constant heatmap is 1 with another constant one, and 0 with any other.
    """
    centred = [heatmap - heatmap.mean(dtype=np.float64) for heatmap in (a, b)]
    lengths = [float(np.sqrt(np.square(values).sum())) if np.ptp(values) else 0.0 for values in centred]
    if not all(lengths):
        return float(lengths[0] == lengths[1])
    return float(np.clip((centred[0] * centred[1]).sum() / (lengths[0] * lengths[1]), -1, 1))


def correlation_after_shift(heatmap: Heatmap, of_shifted: Heatmap, down_px: int, right_px: int) -> float:
    """Return the correlation of a picture's heatmap with that of the shifted picture, after undoing the shift.

    `of_shifted` is the heatmap of the picture shifted by `app.explain.fine.shifted`. The correlation is over the part
    of the picture that both heatmaps cover.
    """
    rows, columns = (_common(side, by) for side, by in zip(heatmap.shape, (down_px, right_px), strict=True))
    return correlation(heatmap[rows[0], columns[0]], of_shifted[rows[1], columns[1]])


def blurred(image: Image, sigma_px: float) -> Image:
    """Blur a picture with a Gaussian, which is normalised over the pixels within the picture."""
    down, across = (_gaussian(side, sigma_px) for side in image.shape[:2])
    return np.asarray(np.rint(np.einsum("yh,hwc,xw->yxc", down, image, across, optimize=True)), np.uint8)


def mean_colour(image: Image) -> Image:
    """Return a picture of one colour, the mean colour of `image`."""
    return np.broadcast_to(np.rint(image.mean(axis=(0, 1))).astype(np.uint8), image.shape)


def _gaussian(side_px: int, sigma_px: float) -> Float32[np.ndarray, "side_px side_px"]:
    places = np.arange(side_px)
    weights = np.exp(-np.square((places[:, None] - places) / sigma_px) / 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _highest_first(heatmap: Heatmap, rng: np.random.Generator) -> Int[np.ndarray, " pixels"]:
    """Return the flat indices of all pixels by falling value, with equal values in random order."""
    shuffled = rng.permutation(heatmap.size)
    return shuffled[np.argsort(-heatmap.ravel()[shuffled], kind="stable")]


def _area(curve: Float[np.ndarray, " n"]) -> float:
    return float(np.trapezoid(curve) / (len(curve) - 1))


def _common(side_px: int, by_px: int) -> tuple[slice, slice]:
    """Return the part of an axis that a shift keeps in view, before and after the shift."""
    first, last = max(0, -by_px), side_px - max(0, by_px)
    return slice(first, last), slice(first + by_px, last + by_px)
