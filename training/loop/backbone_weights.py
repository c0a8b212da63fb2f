"""Weights in a backbone: by timm, which adapts a transformer's tables of positions to the size of its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor, nn

from app.models.backbones import size_options
from training.recipe.config import ModelConfig


def timm_options(model: ModelConfig, branch: str) -> dict[str, Any]:
    """Return the arguments that `CNNViTFusion` passes to timm for the branch `cnn` or `swin`."""
    if branch == "cnn":
        return size_options(model.cnn, model.image_size) | model.cnn_options
    return size_options(model.swin, model.swin_image_size or model.image_size) | model.swin_options


def fill_backbone(
    backbone: nn.Module, timm_name: str, options: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Copy the tensors of timm's whole model, any classifier included, into the backbone.

    Raises RuntimeError if one is missing or does not fit.
    """
    load_by_timm(backbone, timm_name, options, {"state_dict": dict(tensors), "label_offset": 0})


def load_by_timm(
    backbone: nn.Module, timm_name: str, options: Mapping[str, Any], source: dict[str, Any] | None = None
) -> None:
    """Copy timm's pretrained weights, or those of `source`, into the backbone. Raises what timm raises.

    They are loaded into a whole model with a classifier first: for a model without one, timm would accept a file in
    which weights are missing.
    """
    timm_state = timm.create_model(timm_name, pretrained=True, pretrained_cfg_overlay=source, **options).state_dict()
    backbone_names = backbone.state_dict().keys()
    backbone.load_state_dict(
        {name: tensor for name, tensor in timm_state.items() if name in backbone_names}, strict=True
    )


def in_one_line(error: Exception) -> str:
    """Return the message of an error without line breaks."""
    return " ".join(str(error).split())
