"""FusionLens against pytorch-grad-cam, in one run.

python -m benchmarks [--rounds N] writes docs/benchmarks.md and docs/benchmarks.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch

from app.inference.bundle import demo_bundle_path
from app.inference.manifest import Architecture, Calibration, Description, Metrics
from app.models.cnnswin import CNNViTFusion
from benchmarks.contestants import contestants, server
from benchmarks.timing import Times, interleaved, median_ratio
from training.draw import draw_lesion
from training.export import mean_maps, write_bundle

DOCS = Path(__file__).parents[1] / "docs"
PACKAGES = ("fusionlens", "torch", "timm", "grad-cam", "fastapi", "uvicorn", "numpy", "opencv-python-headless")
THEIRS = "pytorch-grad-cam"


@dataclass(frozen=True)
class Goal:
    """A contestant's time over pytorch-grad-cam's, and what it should not exceed."""

    contestant: str
    meaning: str
    most: float


GOALS = (
    Goal("explained prediction", "logits and the fused heatmap, in process", 1 / 2),
    Goal("GET /gradcam", "overlay PNG of a stored prediction, over HTTP", 1 / 8),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    image = draw_lesion(np.random.default_rng(0), "malignant", 600).image
    picture = bytes(cv2.imencode(".jpg", image[..., ::-1])[1])
    with tempfile.TemporaryDirectory() as folder:
        random_bundle = Path(folder) / "b0-swin-tiny"
        write_random_bundle(random_bundle)
        measured = {}
        for name, bundle in (("B0 + Swin-Tiny, random weights", random_bundle), ("demo bundle", demo_bundle_path())):
            with server(bundle) as address:
                measured[name] = interleaved(contestants(bundle, picture, address), rounds)
            print(table(name, measured[name]), flush=True)
    DOCS.joinpath("benchmarks.md").write_text(page(measured, rounds))
    raw = {model: {name: t.rounds_ms for name, t in times.items()} for model, times in measured.items()}
    DOCS.joinpath("benchmarks.json").write_text(json.dumps({"about": about(), "rounds_ms": raw}, indent=1) + "\n")


def write_random_bundle(path: Path) -> None:
    """The default model, EfficientNet-B0 with Swin-Tiny, with random weights."""
    torch.manual_seed(0)
    model = CNNViTFusion(2).eval()
    description = Description(
        name="random",
        version="1",
        created=date.today(),
        classes=("benign", "malignant"),
        architecture=Architecture(
            cnn="efficientnet_b0",
            swin="swin_tiny_patch4_window7_224",
            cnn_options={},
            swin_options={},
            fusion="cross_attention",
            dim=512,
            heads=8,
            dropout=0.0,
        ),
        calibration=Calibration(temperature=1.0, chosen_on="nothing"),
        decision=None,
        metrics=Metrics(split="none", pictures=1, values={}),
        licence="MIT",
        data="none: the weights are random",
        notes=("For timing only.",),
        recipe={},
    )
    write_bundle(model, path, description, mean_maps(model, [torch.zeros(1, 3, 224, 224, dtype=torch.uint8)]))


def table(model: str, times: dict[str, Times]) -> str:
    """One model's figures as Markdown."""
    lines = [f"### {model}", "", f"| | median, ms | quartiles, ms | ÷ {THEIRS} |", "| --- | ---: | ---: | ---: |"]
    for name, taken in times.items():
        low, high = taken.quartiles_ms
        lines.append(
            f"| {name} | {taken.median_ms:.1f} | {low:.1f} to {high:.1f} | {median_ratio(taken, times[THEIRS]):.3f} |"
        )
    lines += ["", "| goal | measured | |", "| --- | ---: | --- |"]
    for goal in GOALS:
        ratio = median_ratio(times[goal.contestant], times[THEIRS])
        verdict = "reached" if ratio <= goal.most else "missed"
        lines.append(
            f"| {goal.contestant} ({goal.meaning}) ÷ {THEIRS} ≤ 1/{1 / goal.most:g} | 1/{1 / ratio:.1f} | {verdict} |"
        )
    return "\n".join([*lines, ""])


def about() -> dict[str, object]:
    """Where and with what the figures were taken."""
    return {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU" if not torch.cuda.is_available() else "GPU",
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def page(measured: dict[str, dict[str, Times]], rounds: int) -> str:
    """The whole report as Markdown."""
    facts = about()
    versions = ", ".join(f"{name} {number}" for name, number in dict(facts["versions"]).items())  # type: ignore[call-overload]
    head = f"""# Benchmarks

`make bench` wrote this page and `benchmarks.json`, which holds every single time.

One picture (drawn, 600 × 600 px JPEG), one run, {rounds} rounds after 2 that do not count; in every round each line of
a table is timed once, in turn. Ratios are medians of the ratios round by round. pytorch-grad-cam is asked for one map
of one layer, as its documentation advises; FusionLens gives both branches' maps and their sum.

{facts["date"]}, {facts["machine"]}, Python {facts["python"]}; {versions}.
"""
    return "\n".join([head, *(table(name, times) for name, times in measured.items())])


if __name__ == "__main__":
    main()
