"""quantus's figures of one heatmap, with the parameters that bring their definitions nearest to FusionLens's."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any
from unittest.mock import patch

import numpy as np
import quantus
import torch
from torch import Tensor, nn

from app.bundles.reader import Bundle
from app.engines.torch import load_model
from app.shapes import Bool, Float, Float32
from training.heatmaps.faithfulness import ROAD_FRACTIONS, STEPS, Heatmap, Image
from training.heatmaps.imputation import impute

PLAIN = {"abs": False, "normalise": False, "disable_warnings": True}


class Probability(nn.Module):
    """The service's probabilities of pictures in [0, 1], seen in 8 bits. `answers` keeps what was answered."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.model = load_model(bundle).to(memory_format=torch.channels_last)
        self.temperature = bundle.manifest.calibration.temperature
        self.answers: list[Float[np.ndarray, "n k"]] = []

    def forward(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        levels = (pictures * 255).round().clamp(0, 255).contiguous(memory_format=torch.channels_last)
        # The predictor rounds maps to fp16 before the head.
        maps = self.model.encode(levels / 255).map(lambda feature_map: feature_map.half().float())
        answer = torch.softmax(self.model.classify(maps)[0].double() / self.temperature, dim=1)
        self.answers.append(answer.numpy())
        return answer


class Exchange(nn.Module):
    """Probabilities of a picture whose pixels are those of `before` where the input is 0, and of `after` where 1."""

    def __init__(self, probability: Probability, before: Image, after: Image) -> None:
        super().__init__()
        self.probability = probability
        self.before, self.after = (torch.from_numpy(planes(picture)) for picture in (before, after))

    def forward(self, exchanged: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n k"]:
        answer: Tensor = self.probability(torch.where(exchanged > 0.5, self.after, self.before))
        return answer


def planes(image: Image) -> Float32[np.ndarray, "1 3 h w"]:
    """A picture as quantus takes it."""
    return np.ascontiguousarray(np.moveaxis(image, -1, 0)[None], np.float32) / np.float32(255)


def without_ties(heatmap: Heatmap) -> Heatmap:
    """The pixels' ranks from 0 up, equal values in random order, so that all figures meet the same order."""
    order = np.lexsort((np.random.default_rng(0).random(heatmap.size), heatmap.ravel()))
    ranks = np.empty(heatmap.size)
    ranks[order] = np.arange(heatmap.size)
    return ranks.reshape(heatmap.shape)


def dividing_steps(pixels: int) -> int:
    """The first number of steps, from FusionLens's on, that divides so many pixels, as PixelFlipping wants it."""
    return next(steps for steps in range(STEPS, pixels) if pixels % steps == 0)


def exchange_curve(
    probability: Probability, label: int, before: Image, after: Image, heatmap: Heatmap, steps: int
) -> Float[np.ndarray, " points"]:
    """PixelFlipping from one picture to another, in whole pixels.

    quantus's curve begins after the first step: the score of `before`, by the same model, is put in front. `steps`
    must divide the number of pixels.
    """
    exchange = Exchange(probability, before, after).eval()
    nothing = np.zeros((1, 1, *heatmap.shape), np.float32)
    flipping = quantus.PixelFlipping(features_in_step=heatmap.size // steps, perturb_baseline=1.0, **PLAIN)
    with torch.inference_mode():
        start = exchange(torch.from_numpy(nothing))[0, label].item()
    return np.array([start, *_asked(flipping, exchange, nothing, label, heatmap)[0]])


def area(curve: Float[np.ndarray, " points"]) -> float:
    """The area under a curve, from 0 to 1."""
    with patch.object(np, "trapz", np.trapezoid, create=True):  # quantus 0.6 calls what numpy 2.4 has no more
        return float(quantus.calculate_auc(curve)) / (len(curve) - 1)


def road(
    probability: Probability, label: int, image: Image, heatmap: Heatmap, options: Mapping[str, Any]
) -> tuple[float, float]:
    """ROAD of the lowest pixels less that of the highest: of the probabilities, and of what quantus counts itself.

    quantus 0.6 ranks all values of a picture instead of its pixels, and then fails on the green and blue ones: they
    come last here. Its percentages are of all values, and rounded down.
    """
    counts = np.array([round(fraction * heatmap.size) for fraction in ROAD_FRACTIONS])
    percentages = (100 * (counts + 0.5) / (3 * heatmap.size)).tolist()
    found = []
    for ordered in (-heatmap, heatmap):
        red = (ordered - ordered.min())[None]
        values = np.concatenate([red, np.full((2, *heatmap.shape), -np.inf)])
        probability.answers.clear()
        kept = _asked(quantus.ROAD(percentages, **options, **PLAIN), probability, planes(image), label, values)
        scores = [answer[0, label] for answer in probability.answers]
        found.append((float(np.mean(scores)), float(np.mean(list(kept.values())))))
    lowest, highest = found
    return lowest[0] - highest[0], lowest[1] - highest[1]


def imputed(image: Image, removed: Bool[np.ndarray, "h w"], noise: float) -> Float[np.ndarray, "3 h w"]:
    """`noisy_linear_imputation`, in grey levels."""
    filled = quantus.noisy_linear_imputation(planes(image)[0].astype(np.float64), np.flatnonzero(removed), noise)
    return np.asarray(255 * filled)


def our_imputation(arr: Float[np.ndarray, "3 h w"], indices: np.ndarray, **_: Any) -> Float32[np.ndarray, "3 h w"]:
    """FusionLens's imputation without noise, as ROAD calls one."""
    removed = np.zeros(arr[0].size, bool)
    removed[indices] = True
    image = np.rint(255 * np.moveaxis(arr, 0, -1)).astype(np.uint8)
    return np.asarray(planes(impute(image, removed.reshape(arr[0].shape), np.random.default_rng(0), noise=0))[0])


def pointing(heatmap: Heatmap, mask: Bool[np.ndarray, "h w"]) -> float:
    """PointingGame."""
    return _located(quantus.PointingGame, heatmap, mask)


def mass_inside(heatmap: Heatmap, mask: Bool[np.ndarray, "h w"]) -> float:
    """RelevanceMassAccuracy, which takes heatmaps without negative values."""
    return _located(quantus.RelevanceMassAccuracy, np.maximum(heatmap, 0), mask)


def localised(heatmap: Heatmap, mask: Bool[np.ndarray, "h w"]) -> float:
    """AttributionLocalisation."""
    return _located(quantus.AttributionLocalisation, heatmap, mask, positive_attributions=True)


def _located(metric: Any, heatmap: Heatmap, mask: Bool[np.ndarray, "h w"], **options: Any) -> float:
    nothing = np.zeros((1, 3, *heatmap.shape))  # these metrics look at a picture's shape alone
    with redirect_stdout(io.StringIO()):  # quantus advises absolute values, where positive ones are asked for
        return float(_asked(metric(**options, **PLAIN), None, nothing, 0, heatmap, s_batch=mask[None, None])[0])


def _asked(metric: Any, model: nn.Module | None, x: np.ndarray, label: int, a: np.ndarray, **more: np.ndarray) -> Any:
    a_batch, y_batch = a.astype(np.float64).reshape(1, -1, *x.shape[2:]), np.array([label])
    return metric(model, x, y_batch, a_batch=a_batch, channel_first=True, softmax=False, device="cpu", **more)
