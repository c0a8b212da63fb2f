"""The training loop: read it top to bottom."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import yaml
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from app.inference.preprocess import Limits, decode, prepare
from app.models.cnnswin import CNNViTFusion
from training.augment import TwoViews, mixup
from training.config import Recipe
from training.data import Sample, TrainingSet, read_samples
from training.metrics import auroc
from training.optim import optimizer, warmup_cosine
from training.pretrained import load_backbone


def fit(recipe: Recipe, data: Path, out: Path, weights: dict[str, Path]) -> None:
    """Train `recipe` on `data` and write to `out`: recipe.yaml, log.jsonl and, after each epoch, ema.safetensors."""
    train, val = read_samples(data, "train"), read_samples(data, "val")
    classes = sorted({sample.label for sample in train})
    images, val_images = (prepared(samples, recipe.model.image_size) for samples in (train, val))
    labels, val_labels = ([classes.index(sample.label) for sample in samples] for samples in (train, val))

    out.mkdir(parents=True, exist_ok=False)
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    (out / "classes.json").write_text(json.dumps(classes))

    torch.manual_seed(recipe.seed)
    model = CNNViTFusion(len(classes), **recipe.model.model_dump())
    for branch, path in weights.items():
        load_backbone(getattr(model, branch), getattr(recipe.model, branch), path)
    model = model.to(memory_format=torch.channels_last)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)

    dataset = TrainingSet(images, labels, TwoViews(recipe.augmentation, recipe.model.image_size), recipe.seed)
    updates = len(dataset) // recipe.batch_size * recipe.epochs
    adam = optimizer(model, recipe)
    schedule = LambdaLR(adam, warmup_cosine(int(recipe.warmup_share * updates), updates))
    generator = torch.Generator().manual_seed(recipe.seed)

    for epoch in range(recipe.epochs):
        started, losses = time.perf_counter(), []
        dataset.epoch = epoch
        model.train()
        for cnn_view, swin_view, label in batches(dataset, recipe.batch_size, generator):
            one_hot = functional.one_hot(label, len(classes)).float()
            cnn_view, swin_view, target = mixup(
                as_input(cnn_view), as_input(swin_view), one_hot, recipe.augmentation.mixup_alpha, generator
            )
            logits = model(cnn_view, swin_view)
            loss = functional.cross_entropy(logits, target, label_smoothing=recipe.label_smoothing)
            adam.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            adam.step()
            schedule.step()
            ema.update_parameters(model)
            losses.append(loss.item())
        val_logits = predict(ema.module, val_images)
        record = {
            "epoch": epoch,
            "loss": float(np.mean(losses)),
            "val_loss": functional.cross_entropy(torch.from_numpy(val_logits), torch.tensor(val_labels)).item(),
            "val_auroc": auroc(val_logits[:, -1] - val_logits[:, 0], np.array(val_labels) == len(classes) - 1),
            "seconds": round(time.perf_counter() - started, 1),
        }
        with (out / "log.jsonl").open("a") as log:
            log.write(json.dumps(record) + "\n")
        safetensors.torch.save_model(ema.module, str(out / "ema.safetensors"))


def prepared(samples: list[Sample], size: tuple[int, int]) -> UInt8[np.ndarray, "n h w 3"]:
    """The samples' pictures as model input, by the same rule as the service."""
    return np.stack([prepare(decode(sample.path.read_bytes(), Limits()), size).image for sample in samples])


def batches(
    dataset: TrainingSet, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One epoch in random order, without the last short batch."""
    yield from DataLoader(dataset, batch_size, shuffle=True, drop_last=True, num_workers=1, generator=generator)


def as_input(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """What the model takes: RGB in [0, 1], channels last in memory (faster convolutions on a CPU)."""
    return images.float().div(255).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def predict(model: nn.Module, images: UInt8[np.ndarray, "n h w 3"], batch: int = 25) -> Float[np.ndarray, "n k"]:
    """Logits of every picture, in eval mode."""
    model.eval()
    parts = [torch.from_numpy(images[i : i + batch]).permute(0, 3, 1, 2) for i in range(0, len(images), batch)]
    return torch.cat([model(as_input(part)) for part in parts]).numpy()
