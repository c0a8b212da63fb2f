"""MixUp and CutMix: training pictures, and their targets, blended with those of a partner."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from training.recipe.config import Augmentation

Box = tuple[int, int, int, int]  # top, bottom, left, right in px
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
    """One weight and one partner for both branches and the targets, by MixUp (Zhang et al. 2018) or CutMix.

    The weight, the box and the choice between the two come from (seed, epoch, update) alone, and position p's partner
    is its neighbour, p XOR 1, which is random because the order is. So a batch cut into parts of even size, over
    processes or one after the other, is mixed as the whole batch would be. CutMix (Yun et al. 2019) takes one box for
    both views, and its weight is the exact share of pixels that stay.

    With both off, the inputs are returned as they are. Raises ValueError for an odd number of pictures.
    """
    if config.mixup_alpha == 0 and config.cutmix_alpha == 0:
        return cnn, swin, targets
    if len(targets) % 2:
        raise ValueError(f"pictures are mixed in pairs, and {len(targets)} is odd: choose an even part of a batch")
    rng = np.random.default_rng([_STREAM, seed, epoch, update])
    # Drawn in any case, so that switching one of the two off leaves the rest of what is drawn as it was.
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
    """A box of this share of the picture and of its shape, centred anywhere and cut off at the edges."""
    half_height, half_width = height * np.sqrt(share) / 2, width * np.sqrt(share) / 2
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    top, bottom = (round(float(np.clip(edge, 0, height))) for edge in (y - half_height, y + half_height))
    left, right = (round(float(np.clip(edge, 0, width))) for edge in (x - half_width, x + half_width))
    return top, bottom, left, right
