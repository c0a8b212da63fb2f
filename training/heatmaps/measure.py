"""Heatmaps of one picture by every method, branch and merge rule, and their metrics."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from app.explain.fine import shifted
from app.explain.merge import MERGE_RULES, Heatmap, MergeRule, finest_grid
from app.explain.methods import METHODS, merged
from app.pictures.prepare import Frame
from app.predicting.prediction import Prediction, Upload
from app.predicting.predictor import Predictor
from app.predicting.request import View
from app.shapes import Bool, Float, UInt8
from training.data.masks import open_mask
from training.data.samples import Sample
from training.evaluation.answered import open_sample
from training.heatmaps.faithfulness import (
    Score,
    blurred,
    correlation,
    correlation_after_shift,
    deletion,
    drop_and_increase,
    energy_inside,
    enlarge,
    insertion,
    mean_colour,
    pointing,
    road,
)

JPEG_QUALITY = 75
BLUR_SIGMA_SHARE = 1 / 32  # standard deviation of the blur, as a share of the shorter side
SHIFT_SHARE = 1 / 28  # shift along each axis, as a share of the side
CENTRED_SIGMA_SHARE = 1 / 4  # standard deviation of the centred Gaussian, as a share of each side
# A mask that covers almost nothing or half of the picture says little about where a coarse heatmap points.
MASK_SHARES = (0.02, 0.4)


@dataclass(frozen=True)
class Variant:
    """A way to compute a heatmap: the method, the branch, and for both branches together the merge rule."""

    method: str
    branch: View | None = None
    merge_rule: MergeRule | None = None

    @property
    def name(self) -> str:
        """The variant in words, which is its key in documents."""
        return " ".join(part for part in (self.method, self.branch, self.merge_rule) if part)


RANDOM, CENTRED = Variant("random map"), Variant("centred Gaussian")
BASELINES = (RANDOM, CENTRED)


@dataclass(frozen=True, eq=False)
class MaskedPicture:
    """A picture and its mask at the size of the model's input. The mask is None if missing, or if it does not count."""

    upload: Upload
    mask: Bool[np.ndarray, "h w"] | None


@dataclass(frozen=True, eq=False)
class MeasuredPicture:
    """The explained class of a picture with its probability, and the heatmap and metrics of each variant."""

    explained: str
    probability: float
    heatmaps: Mapping[Variant, Heatmap]
    metrics: Mapping[Variant, Mapping[str, float]]


def open_picture(predictor: Predictor, sample: Sample) -> MaskedPicture:
    """Read a sample's picture and its mask. A mask that covers too little or too much does not count (`MASK_SHARES`).

    Raises DataError for a picture or mask that cannot be used.
    """
    upload = open_sample(predictor, sample)
    mask = read_mask(sample.mask, upload) if sample.mask else None
    if mask is not None and not MASK_SHARES[0] <= mask.mean() <= MASK_SHARES[1]:
        mask = None
    return MaskedPicture(upload, mask)


def measure(predictor: Predictor, picture: MaskedPicture, seed: int) -> MeasuredPicture:
    """Explain the service's answer to one picture by every variant, and compute each variant's metrics.

    All variants use the same random numbers, which depend on `seed`.
    """
    upload, mask = picture.upload, picture.mask
    prediction, _ = predictor.predict(upload)
    answer = predictor.answer(prediction)
    rng = np.random.default_rng([seed, 1])
    heatmaps = heatmaps_of(predictor, prediction, answer.label, rng)
    stability = _stability(predictor, upload, answer.label, heatmaps, rng)
    score = probability_of(predictor, upload, answer.label)
    blur = blurred(upload.image, BLUR_SIGMA_SHARE * min(upload.image.shape[:2]))
    metrics = {}
    for variant, heatmap in heatmaps.items():
        enlarged = enlarge(heatmap, upload.image.shape[:2])
        localisation = (
            {} if mask is None else {"pointing": pointing(enlarged, mask), "energy": energy_inside(enlarged, mask)}
        )
        metrics[variant] = _faithfulness(score, upload.image, blur, enlarged, seed) | localisation | stability[variant]
    return MeasuredPicture(answer.label, answer.probabilities[answer.label], heatmaps, metrics)


def variants_of(predictor: Predictor) -> list[Variant]:
    """Return all variants for a model: the baselines first, then those of each method."""
    branches = predictor.capabilities.branches
    variants = list(BASELINES)
    for name, method in METHODS.items():
        if len(branches) > 1:
            rules = [rule for rule in MERGE_RULES if rule != "sum" or method.units == "logit"]
            variants += [Variant(name, "fusion", rule) for rule in rules]
        variants += [Variant(name, branch) for branch in branches]
    return variants


def heatmaps_of(
    predictor: Predictor, prediction: Prediction, target: str, rng: np.random.Generator
) -> dict[Variant, Heatmap]:
    """Compute the heatmap of every variant for the class `target`, on the model's grid. The random map uses `rng`."""
    attribution_input = predictor.attribution_input(prediction, target, None)
    attributions = {name: method.attribute(attribution_input) for name, method in METHODS.items()}
    rows, columns = finest_grid(attribution_input.maps.values())
    heatmaps: dict[Variant, Heatmap] = {}
    for variant in variants_of(predictor):
        if variant == RANDOM:
            heatmaps[variant] = rng.standard_normal((rows, columns), np.float32)
        elif variant == CENTRED:
            heatmaps[variant] = np.outer(gaussian_profile(rows), gaussian_profile(columns))
        elif variant.merge_rule is not None:
            heatmaps[variant] = merged(attributions[variant.method], variant.merge_rule)
        else:
            assert variant.branch is not None and variant.branch != "fusion"
            heatmaps[variant] = attributions[variant.method].heatmaps[variant.branch]
    return heatmaps


def probability_of(predictor: Predictor, upload: Upload, target: str) -> Score:
    """Return a function from model inputs to the service's probability of `target`, with a cache."""
    cached: dict[bytes, float] = {}

    def score(images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, " n"]:
        keys = [hashlib.sha256(image.tobytes()).digest() for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in cached}
        waiting = list(new.items())
        for start in range(0, len(waiting), predictor.engine.batch_size):
            batch = waiting[start : start + predictor.engine.batch_size]
            predictions = predictor.predict_batch([replace(upload, image=image) for _, image in batch])
            for (key, _), (prediction, _) in zip(batch, predictions, strict=True):
                cached[key] = predictor.answer(prediction).probabilities[target]
        return np.array([cached[key] for key in keys])

    return score


def read_mask(path: Path, upload: Upload) -> Bool[np.ndarray, "h w"]:
    """Read a mask at the size of the model's input: true where at least half of an input pixel is inside.

    The file is a picture of the upload's size, upright, and brighter than half inside. It is resized and cropped like
    the upload, but by area averaging, which does not move edges. Raises DataError for a mask that cannot be read, has
    another size, or is empty.
    """
    size = upload.width_px, upload.height_px
    inside = open_mask(path, size)
    height, width = upload.image.shape[:2]
    frame = Frame.shortest_side(size, (height, width))
    return np.asarray(inside.convert("F").resize((width, height), Image.Resampling.BOX, frame.sides)) >= 127.5


def _faithfulness(
    score: Score, image: UInt8[np.ndarray, "h w 3"], blur: UInt8[np.ndarray, "h w 3"], heatmap: Heatmap, seed: int
) -> dict[str, float]:
    """Compute the metrics of faithfulness, which query the model with changed pictures."""
    change = drop_and_increase(score, image, heatmap)
    return {
        "insertion": insertion(score, image, heatmap, blur, seed=seed),
        "deletion": deletion(score, image, heatmap, mean_colour(image), seed=seed),
        "road": road(score, image, heatmap, seed=seed),
        "average_drop": change.drop,
        "increase": change.increase,
    }


def _stability(
    predictor: Predictor, upload: Upload, target: str, heatmaps: Mapping[Variant, Heatmap], rng: np.random.Generator
) -> dict[Variant, dict[str, float]]:
    """Compute each heatmap's correlation with those of the slightly shifted and of the JPEG-compressed picture."""
    size = height, width = upload.image.shape[:2]
    down_px, right_px = max(1, round(SHIFT_SHARE * height)), max(1, round(SHIFT_SHARE * width))
    shifts = [(down_px, right_px), (-down_px, -right_px)]
    images = [_as_jpeg(upload.image), *(shifted(upload.image, *by) for by in shifts)]
    predictions = [predictor.predict(replace(upload, image=image))[0] for image in images]
    of_jpeg, *of_shifted = [heatmaps_of(predictor, prediction, target, rng) for prediction in predictions]
    stability = {}
    for variant, heatmap in heatmaps.items():
        whole = enlarge(heatmap, size)
        moved = [
            correlation_after_shift(whole, enlarge(heatmaps_of_shifted[variant], size), *by)
            for heatmaps_of_shifted, by in zip(of_shifted, shifts, strict=True)
        ]
        stability[variant] = {
            "shift": float(np.mean(moved)),
            "jpeg": correlation(whole, enlarge(of_jpeg[variant], size)),
        }
    return stability


def _as_jpeg(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Compress the model's input as JPEG, and decode it again."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(file, formats=["JPEG"]).convert("RGB"))


def gaussian_profile(cells: int) -> Float[np.ndarray, " cells"]:
    """Return the centred Gaussian along one axis of the grid."""
    position = (np.arange(cells) + 0.5) / cells - 0.5
    return np.asarray(np.exp(-np.square(position / CENTRED_SIGMA_SHARE) / 2))
