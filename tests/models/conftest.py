"""Small seeded models. Pictures are 96 × 160 px and maps 3 × 5 cells, so that rows cannot pass for columns."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from app.models.cnnswin import CNNViTFusion, Fusion

SMALL: dict[str, Any] = {
    "cnn": "tf_efficientnet_lite0",
    "swin_options": {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)},
    "image_size": (96, 160),
    "dim": 32,
    "heads": 4,
}


@pytest.fixture
def small() -> dict[str, Any]:
    """The arguments of a small model."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def built() -> Callable[..., CNNViTFusion]:
    """`built(fusion, classes)`: a small model in eval mode, built once. A test that changes it works on a copy."""

    @cache
    def build(fusion: Fusion = "cross_attention", classes: int = 2) -> CNNViTFusion:
        torch.manual_seed(0)
        return CNNViTFusion(classes, fusion=fusion, **SMALL).eval()

    return build


@pytest.fixture(scope="session")
def finer_cnn() -> CNNViTFusion:
    """A model whose CNN map has 6 × 10 cells, so that queries cannot pass for keys. K = 5, float64."""
    torch.manual_seed(2)
    return CNNViTFusion(5, cnn_options={"output_stride": 16}, **SMALL).eval().double()


@pytest.fixture
def images() -> Tensor:
    """Two pictures, RGB in [0, 1]."""
    return torch.rand(2, 3, 96, 160, generator=torch.Generator().manual_seed(1))
