"""A backbone's weights from a local file."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import timm
import torch
from torch import Tensor, nn


class WeightsError(ValueError):
    """Weights that do not fit the backbone, and why."""


def load_backbone(backbone: nn.Module, timm_name: str, path: Path) -> None:
    """Load a safetensors file or a state dict made for `timm_name` (its classifier is dropped).

    A file with other names is accepted if its tensors stand in timm's order with timm's shapes, which is how
    checkpoints converted from the same source differ. Raises WeightsError.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}")
    if path.suffix == ".safetensors":
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    else:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    expected = timm.create_model(timm_name, pretrained=False).state_dict()
    if expected.keys() != tensors.keys():
        shapes = [tensor.shape for tensor in tensors.values()]
        if shapes != [tensor.shape for tensor in expected.values()]:
            raise WeightsError(f"{path.name} does not hold the weights of {timm_name}: names and shapes differ")
        tensors = dict(zip(expected, tensors.values(), strict=True))
    own = backbone.state_dict().keys()
    backbone.load_state_dict({name: tensor for name, tensor in tensors.items() if name in own}, strict=True)
