"""Models for the engine tests, each as a bundle and as a module: every fusion, three seeds, one of the demo's size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from app.inference.bundle import Bundle, read_bundle
from app.inference.manifest import Architecture, Description
from app.models.cnnswin import FUSIONS, CNNViTFusion
from app.models.feature_maps import FeatureMaps
from tests.bundles import describe, tiny_model, tiny_reference
from training.export import write_bundle

DEMO_SIZE = Architecture(
    cnn="tf_efficientnet_lite0",
    swin="swin_tiny_patch4_window7_224",
    cnn_options={},
    swin_options={"embed_dim": 32, "num_heads": [2, 4, 8, 16]},
    fusion="cross_attention",
    dim=256,
    heads=8,
    dropout=0.1,
)

CASES = (*FUSIONS, "cross_attention-seed-1", "demo-size-seed-2")


@dataclass(frozen=True)
class Case:
    """A bundle, and the module with the same (fp16-rounded) weights, which no engine has touched."""

    model: CNNViTFusion
    bundle: Bundle

    @property
    def images(self) -> UInt8[np.ndarray, "3 h w 3"]:
        """Three pictures of noise, always the same."""
        return np.random.default_rng(11).integers(0, 256, (3, *self.model.image_size, 3), np.uint8)


def make_case(name: str, folder: Path) -> Case:
    """The case called `name`, one of `CASES`, with its bundle written to `folder`."""
    seed = int(name.rpartition("-seed-")[2]) if "-seed-" in name else 0
    if name.startswith("demo-size"):
        torch.manual_seed(seed)
        model = CNNViTFusion(2, **DEMO_SIZE.model_dump()).eval()
        return write_case(model, folder, describe().model_copy(update={"architecture": DEMO_SIZE}))
    fusion = next(fusion for fusion in FUSIONS if name.startswith(fusion))
    return write_case(tiny_model(fusion, classes=5, seed=seed), folder, describe(fusion, classes=5))


def write_case(model: CNNViTFusion, folder: Path, description: Description) -> Case:
    """A model as a case; its weights are rounded as a bundle stores them."""
    model.half().float()
    write_bundle(model, folder, description, tiny_reference(model), {})
    return Case(model, read_bundle(folder))


@dataclass(frozen=True)
class WholeModel:
    """What autograd gives when the score is differentiated through the whole model, and at what."""

    logits: Tensor
    sources: dict[str, Tensor]
    gradients: dict[str, Tensor]


def autograd_through_the_whole_model(case: Case, index: int) -> WholeModel:
    """Ordinary Grad-CAM: one forward from the picture to the logits with hooks at the maps, then backward."""
    sources: dict[str, Tensor] = {}

    def note(_: nn.Module, arguments: tuple[FeatureMaps[Tensor]], output: tuple[Tensor, Tensor | None]) -> None:
        sources.update(arguments[0].items())
        if output[1] is not None:
            sources["attention"] = output[1]

    picture = torch.tensor(case.images[:1]).permute(0, 3, 1, 2).float().div(255).requires_grad_()
    hook = case.model.head.register_forward_hook(note)
    logits = case.model(picture)
    hook.remove()
    found = torch.autograd.grad(logits[0, index], [picture, *sources.values()])
    assert found[0].any(), "the graph does not reach the picture"
    gradients = {f"{name}_gradient": gradient for name, gradient in zip(sources, found[1:], strict=True)}
    return WholeModel(logits.detach(), {name: source.detach() for name, source in sources.items()}, gradients)
