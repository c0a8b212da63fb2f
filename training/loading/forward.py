"""Inference on labelled pictures, in batches."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from app.pictures.bit_depth import Stretch
from app.progress import Steps
from app.shapes import Float, UInt8
from training.data.samples import Sample
from training.loading.views import EvaluationSet


def prepared_batches(
    samples: Sequence[Sample], size: tuple[int, int], stretch: Stretch, batch: int = 25
) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
    """Yield the samples' pictures in batches, cropped and resized as the service does it.

    `size` is (height, width) in px, and `stretch` the rule for grey values. How many have been used is shown on
    standard error. Raises DataError for a picture that cannot be read.
    """
    pictures = EvaluationSet(samples, size, stretch)
    with Steps("pictures", len(samples), "pictures", stream=sys.stderr) as steps:
        for start in range(0, len(samples), batch):
            images = [pictures[index] for index in range(start, min(start + batch, len(samples)))]
            yield torch.stack(images)
            steps.update(len(images))


def to_engine_batches(batches: Iterable[UInt8[Tensor, "b 3 h w"]]) -> Iterator[UInt8[np.ndarray, "_b h w 3"]]:
    """Convert batches of prepared pictures to the engines' form: numpy, channels last."""
    for batch in batches:
        yield np.ascontiguousarray(batch.permute(0, 2, 3, 1).numpy())


def to_model_input(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Scale 8-bit RGB to [0, 1], in the channels-last memory format, which makes convolutions faster."""
    return images.float().div(255).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def predict(model: nn.Module, batches: Iterable[UInt8[Tensor, "b 3 h w"]]) -> Float[np.ndarray, "n k"]:
    """Return the float32 logits of all pictures. The model must be in eval mode."""
    parameter = next(model.parameters())
    parts = [model(to_model_input(batch.to(parameter.device)).to(parameter.dtype)).float().cpu() for batch in batches]
    return torch.cat(parts).numpy()
