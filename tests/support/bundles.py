"""Tiny seeded models and their bundles: the real classes, small enough for a forward in milliseconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.bundles.manifest import BASELINE, MANIFEST, WEIGHTS, Architecture, Calibration, Decision, Description, Metrics
from app.models.cnnswin import CNNViTFusion, Fusion
from app.models.feature_maps import Branch, FeatureMaps
from app.shapes import Float
from training.export.export import mean_maps, write_bundle
from training.export.graphs import write_graphs

Fields = dict[str, Any]
BRANCHES: tuple[Branch, ...] = ("cnn", "swin")  # of tiny models


def tiny_architecture(fusion: Fusion = "cross_attention") -> Architecture:
    """At 64 × 64 px the CNN's grid is 2 × 2 and the Swin's 4 × 4, so that mixing up grids shows."""
    return Architecture(
        cnn="test_efficientnet",
        swin="swin_tiny_patch4_window7_224",
        cnn_options={},
        swin_options={"embed_dim": 8, "depths": [1, 1, 2], "num_heads": [1, 2, 2], "window_size": 2},
        fusion=fusion,
        dim=16,
        heads=2,
        dropout=0.1,
    )


def tiny_model(
    fusion: Fusion = "cross_attention", classes: int = 2, seed: int = 0, image_size: tuple[int, int] = (64, 64)
) -> CNNViTFusion:
    """A tiny model in eval mode; the same arguments give the same weights.

    Its batch norms have the statistics of a few pictures: with those of a new layer, the CNN's map is nearly flat.
    """
    return random_model(classes, seed, image_size=image_size, **tiny_architecture(fusion).model_dump())


def random_model(classes: int = 2, seed: int = 0, **arguments: Any) -> CNNViTFusion:
    """A model with random weights in eval mode, of other arguments of `CNNViTFusion`. See `tiny_model`."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = CNNViTFusion(classes, **arguments)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        model.train().encode(_blurred_noise(8, model.image_size))
    return model.eval()


def describe(fusion: Fusion = "cross_attention", classes: int = 2) -> Description:
    """The description of a tiny bundle, whose classes are benign and malignant, or class 0, class 1 and so on."""
    names = ("benign", "malignant") if classes == 2 else tuple(f"class {i}" for i in range(classes))
    decision = Decision(positive="malignant", threshold=0.4, chosen_on="nothing") if classes == 2 else None
    return Description(
        name="tiny",
        version="1",
        created=date(2026, 1, 1),
        classes=names,
        architecture=tiny_architecture(fusion),
        calibration=Calibration(temperature=1.5, chosen_on="nothing"),
        decision=decision,
        metrics=Metrics(split="val", pictures=1, values={"accuracy": 0.5}),
        licence="MIT",
        data="none: the weights are random",
        notes=("Random weights, for tests.",),
        recipe={},
    )


def tiny_reference(model: CNNViTFusion) -> FeatureMaps[np.ndarray]:
    """The mean maps of four pictures of blurred noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pictures = _blurred_noise(4, model.image_size).mul(255).byte()
    return mean_maps(model, [pictures])


def write_tiny_bundle(
    path: Path,
    fusion: Fusion = "cross_attention",
    classes: int = 2,
    seed: int = 0,
    image_size: tuple[int, int] = (64, 64),
    graphs: Mapping[str, bytes] | None = None,
) -> Path:
    """The bundle of `tiny_model` with the same arguments, written to `path`. Only torch serves one without graphs."""
    model = tiny_model(fusion, classes, seed, image_size)
    write_bundle(model, path, describe(fusion, classes), tiny_reference(model), graphs or {}, None)
    return path


def write_compiled_bundle(path: Path) -> Path:
    """The bundle of `tiny_model()` with graphs, as a bundle is usually served, written to `path`. Takes seconds."""
    return write_tiny_bundle(path, graphs=write_graphs(tiny_model().half().float(), []))


def write_vit_bundle(path: Path) -> Path:
    """A tiny bundle with graphs, whose transformer is a ViT with a grid of 4 × 4, written to `path`. Takes seconds."""
    vit: Fields = {"depth": 2, "embed_dim": 24, "num_heads": 2}
    fields = tiny_architecture().model_dump() | {"swin": "vit_tiny_patch16_224", "swin_options": vit}
    model = random_model(image_size=(64, 64), **fields).half().float()
    description = describe().model_copy(update={"architecture": Architecture(**fields)})
    write_bundle(model, path, description, tiny_reference(model), write_graphs(model, []), None)
    return path


def edit(folder: Path, change: Callable[[Fields], object]) -> None:
    """Change the fields of a bundle's manifest in place."""
    fields = json.loads((folder / MANIFEST).read_text())
    change(fields)
    (folder / MANIFEST).write_text(json.dumps(fields))


def seal(folder: Path, names: tuple[str, ...] = (WEIGHTS, BASELINE)) -> Path:
    """Make the manifest's digests of these files right again."""
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    edit(folder, lambda fields: fields["files"].update(digests))
    return folder


def _blurred_noise(count: int, size: tuple[int, ...]) -> Float[Tensor, "b 3 h w"]:
    return functional.interpolate(torch.rand(count, 3, 5, 5), size, mode="bicubic").clamp(0, 1)
