"""A recipe: every choice of a training run, as typed data read from YAML."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.models.cnnswin import Fusion


class RecipeError(ValueError):
    """A recipe that cannot be used, and why."""


class Part(BaseModel):
    """A frozen part of a recipe: an unknown key is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Part):
    """The arguments of `CNNViTFusion`, and where each branch's weights start from."""

    cnn: str = "efficientnet_b0"
    swin: str = "swin_tiny_patch4_window7_224"
    fusion: Fusion = "cross_attention"
    image_size: tuple[int, int] = (224, 224)
    dim: int = 512
    heads: int = 8
    dropout: float = Field(0.0, ge=0, lt=1)
    cnn_options: dict[str, Any] = {}
    swin_options: dict[str, Any] = {}


class Augmentation(Part):
    """Geometry is drawn once for both branches; colour is drawn for each."""

    flip: bool = True
    rotation_degrees: float = 180.0
    translate: float = 0.1
    scale: tuple[float, float] = (0.85, 1.2)
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.03
    mixup_alpha: float = Field(0.2, ge=0)


class Rates(Part):
    """Peak learning rates per group."""

    cnn: float = 1e-4
    swin: float = 1e-4
    head: float = 2e-4
    norm_and_bias: float = 5e-5


class Recipe(Part):
    """One training run."""

    name: str
    seed: int = 0
    model: ModelConfig = ModelConfig()
    augmentation: Augmentation = Augmentation()
    rates: Rates = Rates()
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(32, ge=1)
    warmup_share: float = Field(0.05, ge=0, lt=1, description="share of all updates spent in linear warm-up")
    weight_decay: float = 0.05
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    clip_norm: float = 1.0
    ema_decay: float = Field(0.99, ge=0, lt=1)


def load_recipe(name_or_path: str) -> Recipe:
    """The recipe in a YAML file, or one of the shipped ones by name. Raises RecipeError."""
    path = Path(name_or_path)
    if not path.suffix:
        path = Path(str(files("training") / "recipes" / f"{name_or_path}.yaml"))
    if not path.is_file():
        raise RecipeError(f"no recipe {name_or_path!r}: give a YAML file or the name of a shipped recipe")
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text()))
    except (yaml.YAMLError, ValidationError) as error:
        raise RecipeError(f"{path.name}: {error}") from error
