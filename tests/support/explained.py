"""Pictures to explain on real heads: tiny models of every fusion, and the demo, on the torch engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from app.bundles.reader import read_bundle
from app.engines.torch import TorchEngine, load_model
from app.explain.attribution import AttributionInput, Maps
from app.explain.merge import Heatmap
from app.explain.methods import METHODS
from app.files import DEMO_BUNDLE
from app.models.cnnswin import FUSIONS, CNNViTFusion, Fusion
from app.models.feature_maps import Branch
from app.predicting.target import HeadScore
from app.shapes import Float32, UInt8
from tests.support.bundles import tiny_model, tiny_reference

MODELS = (*FUSIONS, "demo")


@dataclass(frozen=True, eq=False)
class Explained:
    """A model, and the training data's mean maps that its methods start from."""

    model: CNNViTFusion
    baseline: Maps

    @cached_property
    def engine(self) -> TorchEngine:
        return TorchEngine(self.model)

    @cached_property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """A picture of soft colours with a dark blob, of the model's size."""
        return np.asarray(pictures(1, self.model.image_size)[0])

    @property
    def pixels(self) -> Float32[Tensor, "1 3 h w"]:
        """The same picture as the module takes it."""
        return torch.from_numpy(self.image.copy()).permute(2, 0, 1)[None].float() / 255

    @cached_property
    def maps(self) -> Maps:
        """The picture's maps."""
        return {branch: found[0] for branch, found in self.engine.encode(self.image[None]).items()}

    def attribution_input(
        self, weights: Sequence[float], maps: Maps | None = None, baseline: Maps | None = None
    ) -> AttributionInput:
        """The picture, or what is given in its stead, for a weighting of the logits."""
        score = HeadScore(self.engine, np.array(weights, dtype=np.float32))
        return AttributionInput(maps or self.maps, baseline or self.baseline, score)

    def heatmaps(self, method: str, weights: Sequence[float]) -> dict[Branch, Heatmap]:
        """The picture's raw maps by a method."""
        return dict(METHODS[method].attribute(self.attribution_input(weights)).heatmaps)


@cache
def tiny(fusion: Fusion = "cross_attention", image_size: tuple[int, int] = (96, 128), seed: int = 0) -> Explained:
    """A tiny model of two classes, whose grids are not square: 3 × 4 and 6 × 8 at the default size."""
    model = tiny_model(fusion, image_size=image_size, seed=seed)
    return Explained(model, tiny_reference(model))


@cache
def demo() -> Explained:
    """The demo bundle, whose CNN ends in a ReLU6."""
    bundle = read_bundle(DEMO_BUNDLE)
    return Explained(load_model(bundle), bundle.baseline)


def model_called(name: str) -> Explained:
    """One of `MODELS`: the tiny model of a fusion, or the demo."""
    return demo() if name == "demo" else tiny(next(fusion for fusion in FUSIONS if fusion == name))


def pictures(count: int, size: tuple[int, ...]) -> UInt8[np.ndarray, "n h w 3"]:
    """Pictures of soft colours, each with a dark blob somewhere else. The same count and size give the same ones."""
    rng = np.random.default_rng(3)
    y, x = np.meshgrid(*(np.linspace(0, 1, side) for side in size), indexing="ij")
    made = []
    for _ in range(count):
        left, top, width = rng.uniform(0.25, 0.75, 3)
        waves = [0.6 + 0.3 * np.sin(6 * (a * x + b * y) + c) for a, b, c in rng.uniform(-1, 1, (3, 3))]
        blob = np.exp(-(((x - left) / width) ** 2 + ((y - top) / width) ** 2) * 20)
        made.append(np.stack(waves, axis=-1) * (1 - 0.8 * blob[..., None]))
    return np.asarray(np.round(255 * np.clip(made, 0, 1)), dtype=np.uint8)
