"""How far one heatmap can be believed: figures of a picture, its heatmap, a mask, and what a model answers.

All arrays are in one frame, the model's input: `image` is what the model sees, `heatmap` is signed (positive speaks
for the explained class) and has a value for each pixel of it, and `mask` is true where the thing looked for lies. A
figure that asks the model receives `score`, which takes pictures to the probability of the explained class. Pixels
whose values are equal come in random order, so that a constant heatmap is no better than chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from training.heatmaps.imputation import impute

Image = UInt8[np.ndarray, "h w 3"]
Heatmap = Float[np.ndarray, "h w"]
Score = Callable[[UInt8[np.ndarray, "n h w 3"]], Float[np.ndarray, " n"]]

STEPS = 10
ROAD_FRACTIONS = (0.1, 0.3, 0.5)


class ConfidenceChange(NamedTuple):
    """What becomes of the score where only the heatmap's evidence is kept of a picture."""

    drop: float
    increase: float


def enlarge(heatmap: Float[np.ndarray, "grid_h grid_w"], size: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """The heatmap at each pixel of a picture (height, width) that its cells tile.

    Bilinear between the cells' centres and continued evenly to the edges, as overlays are drawn. A constant heatmap
    stays exactly constant.
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
    """The scores while pixels of `before` are exchanged for those of `after`, highest in the heatmap first.

    `steps` equal numbers of pixels are exchanged one after the other; the first score is that of `before`, the last
    that of `after`.
    """
    order = _highest_first(heatmap, np.random.default_rng(seed))
    counts = np.rint(np.linspace(0, order.size, steps + 1)).astype(np.intp)
    pictures = np.repeat(before[None], steps + 1, axis=0)
    flat, source = pictures.reshape(steps + 1, -1, 3), after.reshape(-1, 3)
    for picture, count in zip(flat, counts, strict=True):
        picture[order[:count]] = source[order[:count]]
    return score(pictures)


def deletion(score: Score, image: Image, heatmap: Heatmap, blank: Image, steps: int = STEPS, seed: int = 0) -> float:
    """Mean score while the picture gives way to `blank`, highest first: the lower the better (Petsiuk et al. 2018).

    It is the area under the curve of `exchange_curve` by trapezia, over the share of pixels exchanged.
    """
    return _area(exchange_curve(score, image, blank, heatmap, steps, seed))


def insertion(score: Score, image: Image, heatmap: Heatmap, blank: Image, steps: int = STEPS, seed: int = 0) -> float:
    """Mean score while the picture comes into `blank`, highest first: the higher the better (Petsiuk et al. 2018).

    It is the area under the curve of `exchange_curve` by trapezia, over the share of pixels exchanged.
    """
    return _area(exchange_curve(score, blank, image, heatmap, steps, seed))


def road(
    score: Score, image: Image, heatmap: Heatmap, fractions: Sequence[float] = ROAD_FRACTIONS, seed: int = 0
) -> float:
    """How much more removing the highest pixels lowers the score than removing the lowest: the higher the better.

    The mean over `fractions`, shares of the pixels, of the score without the lowest less that without the highest
    (both orders of Rong et al. 2022), with removed pixels filled in by `impute`. Chance is 0. Raises ValueError for
    fractions that leave nothing.
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
    """Average drop and increase in confidence of one picture (Chattopadhay et al. 2018).

    Each pixel is multiplied by the heatmap's positive part over its maximum, so that the rest is black. `drop` is the
    score's relative loss, from 0 to 1 (lower is better); `increase` is 1 where the score rises (higher is better).
    A heatmap that keeps everything loses nothing: these figures say little where heatmaps differ in size.
    """
    evidence = np.maximum(heatmap, 0)
    weight = evidence / (evidence.max() or 1)
    kept = np.rint(image * weight[..., None]).astype(np.uint8)
    full_score, kept_score = score(np.stack([image, kept])).tolist()
    return ConfidenceChange(max(0.0, full_score - kept_score) / full_score, float(kept_score > full_score))


def pointing(heatmap: Heatmap, mask: Bool[np.ndarray, "h w"]) -> float:
    """Whether the heatmap's maximum lies in the mask, without tolerance: the higher the better (Zhang et al. 2016).

    Where several pixels have the maximum, their share in the mask. Chance is the mask's share of the picture.
    """
    return float(mask[heatmap == heatmap.max()].mean())


def energy_inside(heatmap: Heatmap, mask: Bool[np.ndarray, "h w"]) -> float:
    """The share of the heatmap's positive part that lies in the mask: the higher the better (Wang et al. 2020).

    Chance is the mask's share of the picture. A heatmap without a positive part has none inside: 0.
    """
    evidence = np.maximum(heatmap, 0).astype(np.float64)
    return float(evidence[mask].sum() / (evidence.sum() or 1))


def correlation(a: Heatmap, b: Heatmap) -> float:
    """Pearson correlation of two heatmaps; of a constant one, 1 with another constant one and 0 with anything else."""
    centred = [heatmap - heatmap.mean(dtype=np.float64) for heatmap in (a, b)]
    lengths = [float(np.sqrt(np.square(values).sum())) if np.ptp(values) else 0.0 for values in centred]
    if not all(lengths):
        return float(lengths[0] == lengths[1])
    return float(np.clip((centred[0] * centred[1]).sum() / (lengths[0] * lengths[1]), -1, 1))


def correlation_after_shift(heatmap: Heatmap, of_shifted: Heatmap, down_px: int, right_px: int) -> float:
    """Correlation of a picture's heatmap with that of the picture moved by `shifted`, each thing with itself.

    It is taken where both show the same part of the picture.
    """
    rows, columns = (_common(side, by) for side, by in zip(heatmap.shape, (down_px, right_px), strict=True))
    return correlation(heatmap[rows[0], columns[0]], of_shifted[rows[1], columns[1]])


def blurred(image: Image, sigma_px: float) -> Image:
    """The picture under a Gaussian blur; at the edges, the mean is over what there is."""
    down, across = (_gaussian(side, sigma_px) for side in image.shape[:2])
    return np.asarray(np.rint(np.einsum("yh,hwc,xw->yxc", down, image, across, optimize=True)), np.uint8)


def mean_colour(image: Image) -> Image:
    """A picture of one colour, the mean of this one."""
    return np.broadcast_to(np.rint(image.mean(axis=(0, 1))).astype(np.uint8), image.shape)


def _gaussian(side_px: int, sigma_px: float) -> Float32[np.ndarray, "side_px side_px"]:
    places = np.arange(side_px)
    weights = np.exp(-np.square((places[:, None] - places) / sigma_px) / 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _highest_first(heatmap: Heatmap, rng: np.random.Generator) -> Int[np.ndarray, " pixels"]:
    """The numbers of all pixels, by falling value; equal ones in random order."""
    shuffled = rng.permutation(heatmap.size)
    return shuffled[np.argsort(-heatmap.ravel()[shuffled], kind="stable")]


def _area(curve: Float[np.ndarray, " n"]) -> float:
    return float(np.trapezoid(curve) / (len(curve) - 1))


def _common(side_px: int, by_px: int) -> tuple[slice, slice]:
    """Where the part that stays in view lies along one axis, before and after a shift."""
    first, last = max(0, -by_px), side_px - max(0, by_px)
    return slice(first, last), slice(first + by_px, last + by_px)
