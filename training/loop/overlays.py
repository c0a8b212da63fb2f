"""Grad-CAM overlays of a model during training, before it is a bundle."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from PIL import Image

from app.drawing.overlay import Style, draw
from app.engines.torch import TorchEngine
from app.explain.cam import gradcam
from app.explain.merge import merge_sum
from app.models.cnnswin import CNNViTFusion
from app.pictures.rectangle import Rectangle
from app.shapes import UInt8
from training.loading.forward import prepared_batches
from training.metrics.calibration import softmax
from training.runs.run import Run

CaptionedPicture = tuple[str, UInt8[np.ndarray, "h w 3"]]


def val_overlays(model: CNNViTFusion, run: Run, skipped: Collection[str], count: int = 4) -> list[CaptionedPicture]:
    """Draw the overlays of `count` val pictures of a run, spread over val, without those at the paths `skipped`."""
    readable = [sample for sample in run.samples_of("val") if str(sample.path) not in skipped]
    samples = readable[:: max(1, len(readable) // count)][:count]
    batches = prepared_batches(samples, run.recipe.model.image_size, run.recipe.stretch)
    images = torch.cat(list(batches)).permute(0, 2, 3, 1).numpy()
    labels = [run.classes.index(sample.label) for sample in samples]
    return draw_overlays(model, np.ascontiguousarray(images), labels, run.classes)


def draw_overlays(
    model: CNNViTFusion, images: UInt8[np.ndarray, "n h w 3"], labels: Sequence[int], classes: Sequence[str]
) -> list[CaptionedPicture]:
    """Draw the evidence for the model's answer over each picture, and caption it with label, answer and probability.

    `images` have the model's input size, and `labels` are their classes by number. The model must be frozen and in eval
    mode.
    """
    engine = TorchEngine(model)
    maps = engine.encode(images)
    probabilities = softmax(engine.classify(maps))
    answers = probabilities.argmax(axis=1)
    head = engine.explain(maps, np.eye(len(classes), dtype=np.float32)[answers])
    heatmaps = {branch: gradcam(branch_maps, head.gradients[branch]) for branch, branch_maps in maps.items()}
    height, width = map(float, images.shape[1:3])
    drawn = []
    for n, (image, label, answer) in enumerate(zip(images, labels, answers, strict=True)):
        heatmap = merge_sum({branch: branch_maps[n] for branch, branch_maps in heatmaps.items()})
        caption = f"{classes[label]}, answered {classes[answer]} with {probabilities[n, answer]:.2f}"
        drawn.append(
            (
                caption,
                draw(Image.fromarray(image), heatmap, Rectangle(0.0, 0.0, width, height), Style()).picture,
            )
        )
    return drawn
