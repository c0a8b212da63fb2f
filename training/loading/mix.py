"""MixUp and CutMix: each training picture and its target are mixed with those of a partner."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from app.shapes import Float
from training.recipe.config import Augmentation

Box = tuple[int, int, int, int]  # top, bottom, left and right edge in px
Mixed = tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"], Float[Tensor, "b k"]]
_STREAM = int.from_bytes(b"mix")


def mix(
    cnn: Float[Tensor, "b 3 h w"],
    swin: Float[Tensor, "b 3 h w"],
    targets: Float[Tensor, "b k"],
    *,
    config: Augmentation,
    seed: int,
    epoch: int,
    update: int,
) -> Mixed:
    """Mix a batch by MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019), both branches and the targets alike.

    The method, the weight and the CutMix box depend only on (seed, epoch, update). The partner of position p is its
    neighbour, p XOR 1; partners are random because the order of the epoch is. Therefore a batch that is split into
    parts of even size, over processes or by accumulation, is mixed exactly as the whole batch would be.

    CutMix pastes the same box into both views. Its weight is the exact share of pixels that are kept.

    Returns the inputs unchanged if both methods are off. Raises ValueError for an odd number of pictures.
    """
    if config.mixup_alpha == 0 and config.cutmix_alpha == 0:
        return cnn, swin, targets
    if len(targets) % 2:
        raise ValueError(f"pictures are mixed in pairs, but {len(targets)} is odd: choose parts of even size")
    rng = np.random.default_rng([_STREAM, seed, epoch, update])
    # The coin is always tossed, so that switching one method off does not change the numbers drawn after it.
    coin = rng.random() < 0.5
    cut = config.mixup_alpha == 0 or (config.cutmix_alpha > 0 and coin)
    alpha = config.cutmix_alpha if cut else config.mixup_alpha
    weight = float(rng.beta(alpha, alpha))
    if not cut:
        return _blend(cnn, weight), _blend(swin, weight), _blend(targets, weight)
    height, width = cnn.shape[2:]
    box = top, bottom, left, right = _random_box(height, width, 1 - weight, rng)
    kept_share = 1 - (bottom - top) * (right - left) / (height * width)
    return _paste(cnn, box), _paste(swin, box), _blend(targets, kept_share)


def _blend(values: Float[Tensor, "b ..."], weight: float) -> Float[Tensor, "b ..."]:
    return weight * values + (1 - weight) * _partners(values)


def _paste(images: Float[Tensor, "b 3 h w"], box: Box) -> Float[Tensor, "b 3 h w"]:
    top, bottom, left, right = box
    pasted = images.clone()
    pasted[:, :, top:bottom, left:right] = _partners(images[:, :, top:bottom, left:right])
    return pasted


def _partners(values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    return values[torch.arange(len(values), device=values.device) ^ 1]


def _random_box(height: int, width: int, share: float, rng: np.random.Generator) -> Box:
    """Draw a box with the picture's aspect ratio and `share` of its area, centred anywhere and clipped at the edges."""
    half_height, half_width = height * np.sqrt(share) / 2, width * np.sqrt(share) / 2
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    top, bottom = (round(float(np.clip(edge, 0, height))) for edge in (y - half_height, y + half_height))
    left, right = (round(float(np.clip(edge, 0, width))) for edge in (x - half_width, x + half_width))
    return top, bottom, left, right
