"""Two views of one picture: the same geometry for both branches, each branch's own colours; and MixUp on batches."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from training.config import Augmentation


class TwoViews:
    """A picture to the CNN's view and the Swin's: tokens of the two mean the same place."""

    def __init__(self, config: Augmentation, size: tuple[int, int]) -> None:
        flips = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()] if config.flip else []
        affine = v2.RandomAffine(
            config.rotation_degrees,
            (config.translate, config.translate),
            config.scale,
            interpolation=InterpolationMode.BILINEAR,
        )
        # Reflected by enough that turning brings in the picture's mirror image, not black corners.
        pad = v2.Pad(min(size) * 3 // 14, padding_mode="reflect")
        self.geometry = v2.Compose([*flips, pad, affine, v2.CenterCrop(list(size))])
        self.colour = v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)

    def __call__(self, image: UInt8[Tensor, "3 h w"]) -> tuple[UInt8[Tensor, "3 h w"], UInt8[Tensor, "3 h w"]]:
        placed = self.geometry(image)
        return self.colour(placed), self.colour(placed)


def mixup(
    cnn_images: Float[Tensor, "b 3 h w"],
    swin_images: Float[Tensor, "b 3 h w"],
    targets: Float[Tensor, "b k"],
    alpha: float,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"], Float[Tensor, "b k"]]:
    """One weight and one permutation for both branches and the targets (Zhang et al. 2018)."""
    if alpha == 0:
        return cnn_images, swin_images, targets
    a, b = torch._standard_gamma(torch.full((2,), alpha), generator=generator)
    weight, partner = float(a / (a + b)), torch.randperm(len(targets), generator=generator)
    mixed = [weight * t + (1 - weight) * t[partner] for t in (cnn_images, swin_images, targets)]
    return mixed[0], mixed[1], mixed[2]
