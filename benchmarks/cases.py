"""The two models that everything runs, and the picture that it is asked about."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch

from app.bundles.manifest import Architecture, Calibration, Description, Metrics
from app.files import DEMO_BUNDLE
from app.models.cnnswin import CNNViTFusion
from benchmarks.models import Case
from training.data.draw import draw_lesion
from training.export.export import compile_bundle, mean_maps, write_bundle

PICTURE_SIDE_PX = 600
DEMO, RANDOM = "demo bundle", "B0 + Swin-Tiny, random weights"


def demo_case(folder: Path) -> Case:
    """The bundle that comes with the project. What is needed besides is written to `folder`."""
    return Case(DEMO, DEMO_BUNDLE, write_picture(folder), folder / "cache-demo")


def random_case(folder: Path) -> Case:
    """The default model with random weights, exported and compiled in `folder`."""
    write_random_bundle(folder / "b0-swin-tiny-torch")
    compile_bundle(folder / "b0-swin-tiny-torch", folder / "b0-swin-tiny", samples=[])
    return Case(RANDOM, folder / "b0-swin-tiny", write_picture(folder), folder / "cache-random")


def write_picture(folder: Path) -> Path:
    """Write the drawn picture to a folder."""
    image = draw_lesion(np.random.default_rng(0), "malignant", PICTURE_SIDE_PX).image
    picture = folder / "picture.jpg"
    picture.write_bytes(bytes(cv2.imencode(".jpg", image[..., ::-1])[1]))
    return picture


DEFAULT = Architecture(
    cnn="efficientnet_b0",
    swin="swin_tiny_patch4_window7_224",
    cnn_options={},
    swin_options={},
    fusion="cross_attention",
    dim=512,
    heads=8,
    dropout=0.0,
)


def write_random_bundle(path: Path, architecture: Architecture = DEFAULT, side_px: int = 224) -> None:
    """Write a bundle of a model with random weights and without graphs, which torch alone can serve.

    By default it is EfficientNet-B0 with Swin-Tiny, which sees square pictures with sides of `side_px`.
    """
    torch.manual_seed(0)
    model = CNNViTFusion(2, image_size=(side_px, side_px), **architecture.model_dump()).eval()
    description = description_for_timing(architecture, ("benign", "malignant"), "none: the weights are random")
    reference = mean_maps(model, [torch.zeros(1, 3, side_px, side_px, dtype=torch.uint8)])
    write_bundle(model, path, description, reference, graphs={}, stretch=None)


def description_for_timing(architecture: Architecture, classes: tuple[str, ...], data: str) -> Description:
    """The description of a bundle whose answers do not matter, because nothing was fitted to them."""
    return Description(
        name="timing",
        version="1",
        created=date.today(),
        classes=classes,
        architecture=architecture,
        calibration=Calibration(temperature=1.0, chosen_on="nothing"),
        decision=None,
        metrics=Metrics(split="none", pictures=1, values={}),
        licence="MIT",
        data=data,
        notes=("For timing only.",),
        recipe={},
    )
