"""What others run: the same model in torch, and the same picture as it takes it.

Nothing of the service or of training is loaded here, since it would count as the others' memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from app.bundles.reader import read_bundle
from app.engines.torch import load_model
from app.models.cnnswin import CNNViTFusion
from app.pictures.decode import Limits, decode
from app.pictures.prepare import prepare

CLASS = 1  # the class that the others explain; both models have two


@dataclass(frozen=True)
class Case:
    """One model and one picture, as files, so that other processes can read them; `cache` is for compiled graphs."""

    name: str
    bundle: Path
    picture: Path
    cache: Path


def torch_model(bundle: Path) -> CNNViTFusion:
    """The bundle's model in torch: eval mode, weights frozen."""
    return load_model(read_bundle(bundle))


def prepared_picture(case: Case) -> Tensor:
    """The picture as the torch model takes it, float32 `[1, 3, 224, 224]` in [0, 1], channels last in memory."""
    prepared = prepare(decode(case.picture.read_bytes(), Limits()), (224, 224))
    return as_batch(torch.from_numpy(prepared.image).permute(2, 0, 1) / 255)


def as_batch(image: Tensor) -> Tensor:
    """One picture `[3, h, w]` as a batch, channels last in memory, which makes torch's convolutions faster."""
    return image[None].contiguous(memory_format=torch.channels_last)


def last_cnn_layer(model: CNNViTFusion) -> nn.Module:
    """The layer whose output is the CNN's feature map: of all layers the one that takes least work to explain."""
    assert model.cnn is not None
    layer: nn.Module = model.cnn.bn2
    return layer
