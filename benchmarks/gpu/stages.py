"""The section of the stages of `progressive`: memory against `plan`'s estimate, the time of an update, what trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from app.models.cnnswin import CNNViTFusion
from benchmarks.gpu.effort import Effort
from benchmarks.gpu.fitting import PRECISIONS, recipe_of
from benchmarks.gpu.notes import Notes
from training.loop.ema import Ema
from training.loop.loss import Loss
from training.loop.optim import build_optimizer
from training.loop.plan import estimated_bytes
from training.loop.processes import Processes
from training.loop.stages import apply_stage, trainable_names
from training.loop.update import Updater
from training.recipe.config import PROGRESSIVE, LastUnits, Recipe
from training.runs.run import build_model

TINY_STAGES = (PROGRESSIVE[0], PROGRESSIVE[1].model_copy(update={"cnn": LastUnits(unit="block", last=2)}))


def measure(notes: Notes, effort: Effort, device: str, folder: Path) -> None:
    """Keep, for each precision and stage, the estimated and the largest memory, in bytes, and the times of updates."""
    stages = PROGRESSIVE if effort.side_px == 224 else TINY_STAGES
    if device != "cuda":
        notes.skip("the memory of each stage: torch counts none on a CPU")
    rows: list[dict[str, object]] = []
    notes.keep("batch_size", effort.batch_size)
    for precision in PRECISIONS:
        recipe = recipe_of(effort, precision).model_copy(update={"stages": stages, "batch_norm": "frozen"})
        estimates = estimated_bytes(build_model(recipe, 2), recipe)
        model, update = _training(recipe, device)
        for stage, estimate in zip(stages, estimates, strict=True):
            before = {name: value.detach().clone().cpu() for name, value in model.named_parameters()}
            row = {"precision": precision, "stage": stage.name, "estimated_bytes": estimate}
            rows.append(row | _measured(model, update, recipe, stages.index(stage), effort, device))
            notes.keep("rows", rows)
            changed = {name for name, value in model.named_parameters() if not torch.equal(value.cpu(), before[name])}
            off = len(changed ^ trainable_names(model, stage))
            what = f"parameters that trained in {stage.name} and should not, or should and did not"
            notes.check(what, off, 0, precision)


def _training(recipe: Recipe, device: str) -> tuple[CNNViTFusion, Callable[[int], None]]:
    """A model, and a function that makes an update of it in the epoch that it is given."""
    torch.manual_seed(0)
    model = build_model(recipe, 2).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Ema(model, recipe.ema_decay)
    loss = Loss.from_labels([0, 1], 2, recipe.imbalance, recipe.label_smoothing)
    updater = Updater(model, build_optimizer(model, recipe), loss, recipe, Processes(0, 1, torch.device(device)))
    sides = (recipe.batch_size, 3, *recipe.model.image_size)
    views: list[Tensor] = [torch.randint(0, 256, sides, dtype=torch.uint8) for _ in range(2)]
    labels = torch.arange(recipe.batch_size) % 2

    def update(epoch: int) -> None:
        updater.gradients([(views[0], views[1], labels)], labels.tolist(), epoch, 0)
        updater.apply()
        average.update(model, 0)
        if device == "cuda":
            torch.cuda.synchronize()

    return model, update


def _measured(
    model: CNNViTFusion, update: Callable[[int], None], recipe: Recipe, number: int, effort: Effort, device: str
) -> dict[str, object]:
    """Updates in a stage: their times, in ms, and the largest memory that torch allocated meanwhile, in bytes."""
    epoch = sum(stage.epochs for stage in recipe.stages[:number])
    apply_stage(model, recipe.stages[number], recipe.batch_norm)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times_ms = list[float]()
    for number in range(effort.warmups + effort.rounds // 3 + 1):
        began = time.perf_counter()
        update(epoch)
        if number >= effort.warmups:
            times_ms.append((time.perf_counter() - began) * 1e3)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {"peak_bytes": peak, "times_ms": times_ms}
