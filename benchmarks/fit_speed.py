"""`fit` against a plain timm and torch loop, in one run.

python -m benchmarks.fit_speed [--rounds N] [--pictures N] writes docs/measured/benchmarks-training.md and .json.
`python -m scripts.measured_pages` writes the page again from the JSON, without measuring.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from app.models.cnnswin import CNNViTFusion
from app.pictures.decode import Limits, TargetSizes, decode
from app.pictures.prepare import prepare
from benchmarks.timing import Times, interleaved, median_ratio
from training.data.draw import draw_dataset
from training.data.samples import Sample, read_samples
from training.loading.augment import TwoViews
from training.loop.fit import fit
from training.loop.loss import Loss
from training.loop.optim import build_optimizer
from training.loop.processes import Processes
from training.loop.stages import apply_stage
from training.loop.update import Updater, autocast_dtype
from training.recipe.config import PROGRESSIVE, Recipe, Stage
from training.runs.run import build_model

DOCS = Path(__file__).parents[1] / "docs" / "measured"
PACKAGES = ("fusionlens", "torch", "timm", "numpy", "opencv-python-headless")
GOAL = 0.95
CUDA = "cuda"
# Everything trains, batch norms included, as in a loop that nobody thought about.
WHOLE = Recipe(name="whole", stages=(Stage(name="all", epochs=1),), batch_size=8, batch_norm="sync", workers=1)
STEPS = Recipe(name="steps", stages=PROGRESSIVE, batch_size=8)


class PlainPictures(Dataset[tuple[Tensor, Tensor, int]]):
    """Two augmented views and the label: the same reading and the same augmentations as in `fit`."""

    def __init__(self, samples: list[Sample], recipe: Recipe) -> None:
        self.samples, self.size = samples, recipe.model.image_size
        self.views = TwoViews(recipe.augmentation, self.size)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        sample = self.samples[index]
        image = torch.from_numpy(
            prepare(decode(sample.path.read_bytes(), Limits(), TargetSizes(self.size)), self.size).image
        )
        return *self.views(image.permute(2, 0, 1), np.random.default_rng()), int(sample.label == "malignant")


def plain_epoch(samples: list[Sample], recipe: Recipe, device: str) -> float:
    """One epoch as one would write it, and its pictures per second."""
    model = CNNViTFusion(2, **recipe.model.model_dump()).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
    adam = torch.optim.AdamW(model.parameters(), lr=recipe.rates.swin, weight_decay=recipe.weight_decay)
    options: dict[str, Any] = {"num_workers": recipe.workers, "pin_memory": device == CUDA}
    loader = DataLoader(PlainPictures(samples, recipe), recipe.batch_size, shuffle=True, drop_last=True, **options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, len(loader))
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    dtype = autocast_dtype(recipe.precision, torch.device(device))
    model.train()
    began, total = time.perf_counter(), 0.0
    for views in loader:
        cnn, swin = (view.to(device, memory_format=torch.channels_last).float() / 255 for view in views[:2])
        targets = nn.functional.one_hot(views[2].to(device), 2).float()
        weight = float(np.random.default_rng().beta(recipe.augmentation.mixup_alpha, recipe.augmentation.mixup_alpha))
        partner = torch.randperm(len(targets), device=device)
        cnn, swin, targets = (weight * one + (1 - weight) * one[partner] for one in (cnn, swin, targets))
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss = loss_of(model(cnn, swin), targets)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        adam.step()
        schedule.step()
        average.update_parameters(model)
        total += loss.item()
    return len(loader) * recipe.batch_size / (time.perf_counter() - began)


def fit_epoch(data: Path, recipe: Recipe, folder: Path) -> dict[str, float]:
    """One epoch of `fit`, and what its log says of time: pictures per second, and the share spent waiting for data."""
    fit(recipe, data, folder, lambda message: None)
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    shutil.rmtree(folder)
    [timing] = [record["timing"] for record in records if record["kind"] == "epoch"]
    return {str(name): float(value) for name, value in timing.items()}


def epochs(rounds: int, pictures: int, device: str) -> list[dict[str, float]]:
    """The two loops in turn, an epoch each; the first round does not count."""
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data"
        draw_dataset(data, pictures * 4 // 3 + 4, seed=0)  # a quarter of it is val
        samples = read_samples(data, "train")
        return [epoch_of_each(data, samples, WHOLE, Path(place) / "run", device) for _ in range(rounds + 1)][1:]


def epoch_of_each(data: Path, samples: list[Sample], recipe: Recipe, run: Path, device: str) -> dict[str, float]:
    """An epoch of `fit`, whose run is in the folder `run` meanwhile, and one of the plain loop on `samples`."""
    timing = fit_epoch(data, recipe, run)
    row = {"fit_images_per_s": timing["images_per_s"], "plain_images_per_s": plain_epoch(samples, recipe, device)}
    row["waiting_share"] = timing["waiting_share"]
    print(row, flush=True)
    return row


def step_of(stage: Stage, device: str) -> Callable[[], object]:
    """An update of the default model in one stage, on a batch that is there already."""
    model = build_model(STEPS, 2).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    apply_stage(model, stage, STEPS.batch_norm)
    loss = Loss.from_labels([0, 1], 2, STEPS.imbalance, STEPS.label_smoothing)
    updater = Updater(model, build_optimizer(model, STEPS), loss, STEPS, Processes(0, 1, torch.device(device)))
    view = torch.randint(0, 256, (STEPS.batch_size, 3, *STEPS.model.image_size), dtype=torch.uint8)
    labels = torch.arange(STEPS.batch_size) % 2

    def step() -> None:
        updater.gradients([(view, view, labels)], labels.tolist(), 0, 0)
        updater.apply()
        if device == CUDA:
            torch.cuda.synchronize()

    return step


def page(measured: list[dict[str, float]], steps: dict[str, Times], pictures: int, about: dict[str, object]) -> str:
    """The report as Markdown."""
    ratio = statistics.median(row["fit_images_per_s"] / row["plain_images_per_s"] for row in measured)
    fit_s, plain_s, waiting = (statistics.median(row[name] for row in measured) for name in measured[0])
    warmup, main = steps["warm-up step"], steps["main step"]
    return f"""# Benchmarks of training

`make bench` writes this page and [benchmarks-training.json](benchmarks-training.json), which holds every round.

`fit` is compared with a plain loop of timm and torch. Both train EfficientNet-B0 with Swin-Tiny at 224 × 224 px in
batches of {WHOLE.batch_size}, with {WHOLE.workers} loading process, on drawn pictures. All weights are trainable.
Both use the same augmentations, MixUp, AdamW, gradient clipping and averaged weights. They take turns, an epoch of
about {pictures} pictures each, for {len(measured)} rounds after one round of warm-up. A ratio is the median of the
ratios of the single rounds.

| | pictures/s |
| --- | ---: |
| `fit` | {fit_s:.2f} |
| plain loop | {plain_s:.2f} |
| `fit` ÷ plain loop (goal ≥ {GOAL}: {"reached" if ratio >= GOAL else "missed"}) | {ratio:.3f} |

`fit` spent {waiting:.1%} of its time waiting for data.

The second table compares one update of {STEPS.batch_size} pictures in each of the two stages of the recipe
`progressive`:

| | median, ms |
| --- | ---: |
| warm-up (CNN frozen) | {warmup.median_ms:.0f} |
| main (the CNN's last 5 blocks train) | {main.median_ms:.0f} |
| warm-up ÷ main | {median_ratio(warmup, main):.3f} |

Measured on {about["date"]}: {", ".join(f"{name} {value}" for name, value in about.items() if name != "date")}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit_speed")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pictures", type=int, default=64, help="in an epoch (default 64)")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for the report (default docs/measured/)")
    args = parser.parse_args()
    device = CUDA if torch.cuda.is_available() else "cpu"
    measured = epochs(args.rounds, args.pictures, device)
    stages = dict(zip(("warm-up step", "main step"), STEPS.stages, strict=True))
    steps = interleaved({name: step_of(stage, device) for name, stage in stages.items()}, args.rounds, warmups=1)
    machine = (
        torch.cuda.get_device_name() if device == CUDA else f"{platform.machine()}, {os.cpu_count()} cores, no GPU"
    )
    about: dict[str, object] = {"date": date.today().isoformat(), "machine": machine}
    about |= {"Python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
    raw: dict[str, Any] = {"about": about, "pictures": args.pictures, "epochs": measured}
    raw["steps_ms"] = {name: taken.rounds_ms for name, taken in steps.items()}
    args.out.joinpath("benchmarks-training.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    text = read_page(args.out)
    (args.out / "benchmarks-training.md").write_text(text, encoding="utf-8")
    print(text)


def read_page(folder: Path) -> str:
    """The page that `benchmarks-training.json` in `folder` gives."""
    raw = json.loads(folder.joinpath("benchmarks-training.json").read_text(encoding="utf-8"))
    steps = {name: Times(tuple(rounds_ms)) for name, rounds_ms in raw["steps_ms"].items()}
    return page(raw["epochs"], steps, raw["pictures"], raw["about"])


if __name__ == "__main__":
    main()
