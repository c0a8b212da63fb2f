"""What torchrun starts twice: the same updates as one process makes, and a whole `fit` that rank 0 alone writes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from app.models.cnnswin import CNNViTFusion
from tests.support.drawn import draws
from tests.training.loop.test_stages import UNDROPPED, recipe_of
from training.data.samples import classes_of, read_samples
from training.loading.augment import TwoViews
from training.loading.forward import predict, prepared_batches
from training.loading.views import EpochBatches, TrainingSet
from training.loop.fit import fit
from training.loop.loss import Loss
from training.loop.optim import build_optimizer, set_rates
from training.loop.processes import Processes, process_group
from training.loop.readable import unread_pictures, unreadable_pictures
from training.loop.stages import apply_stage
from training.loop.update import Updater
from training.recipe.config import LastUnits, Recipe, Stage
from training.runs.run import Run, read_run

STAGES = (Stage(name="warmup", epochs=1, cnn="frozen"), Stage(name="main", epochs=1, cnn=LastUnits(last=2)))
Trained = list[dict[str, torch.Tensor]]


def main(folder: Path) -> None:
    """Raises AssertionError in a process that sees a difference."""
    recipe = recipe_of(model=UNDROPPED, imbalance="class_weights", stages=[stage.model_dump() for stage in STAGES])
    with process_group() as processes:
        alone = trained(folder / "data", recipe, Processes(0, 1, processes.device))
        together = trained(folder / "data", recipe, processes)
        for (one, both), kind, most in zip(zip(alone, together, strict=True), KINDS, (1e-9, 1e-6), strict=True):
            off = max(float((one[name] - both[name]).abs().max()) for name in one)
            assert one.keys() == both.keys() and off <= most, f"{kind} are {off} apart"
            assert off > 0, "two processes that add in another order cannot be bit-equal: was there a second one?"
        if processes.writes:
            print("gradients agree", flush=True)
        gathered_in_order(processes)
        fit_as_one(folder, recipe, processes)


KINDS = ("gradients of the last update", "weights after two stages")


def fit_as_one(folder: Path, recipe: Recipe, processes: Processes) -> None:
    """A whole run: one log, from rank 0, with val figures of every picture counted once."""
    recipe = Recipe.model_validate(recipe.model_dump() | {"workers": 1, "log_updates": 1})
    fit(recipe, folder / "data", folder / "two", lambda message: print(message, flush=True))
    processes.wait()
    run = read_run(folder / "two")
    records = [json.loads(line) for line in run.log.open()]
    assert [record["update"] for record in records if record["kind"] == "update"] == list(range(6))
    val = torch.from_numpy(
        predict(run.finished_model(), prepared_batches(run.samples_of("val"), (64, 64), None))
    ).double()
    labels = torch.tensor(run.labels_of("val"))
    assert abs(records[-1]["val"]["nll"] - float(torch.nn.functional.cross_entropy(val, labels))) < 1e-5
    read_in_shares(run, processes)
    if processes.writes:
        print("one log", flush=True)


def read_in_shares(run: Run, processes: Processes) -> None:
    """Both processes know of the same pictures that cannot be read, whichever of them has tried."""
    samples = run.samples_of("train")[:7]
    broken = [replace(samples[number], path=samples[number].path.with_suffix(".gone")) for number in (2, 3, 6)]
    listed = [*samples[:2], *broken[:2], *samples[4:6], broken[2]]
    assert [*unreadable_pictures(listed, run, processes)] == broken
    unread = unread_pictures(run, np.arange(len(run.samples_of("train"))) != 5, [], processes)
    assert unread == [run.samples_of("train")[5]]


def trained(data: Path, recipe: Recipe, processes: Processes) -> Trained:
    """The last gradients and the weights after three updates in each stage, in float64."""
    samples = read_samples(data, "train")
    classes = classes_of(samples)
    labels = [classes.index(sample.label) for sample in samples]
    torch.manual_seed(recipe.seed)
    model = CNNViTFusion(2, **recipe.model.model_dump()).double()
    loss = Loss.from_labels(labels, 2, recipe.imbalance, recipe.label_smoothing)
    updater = Updater(model, build_optimizer(model, recipe), loss, recipe, processes)
    batches = EpochBatches(labels, draws(labels, recipe.seed), recipe.batch_size, processes.rank, processes.count)
    views = TwoViews(recipe.augmentation, recipe.model.image_size)
    pictures = TrainingSet(samples, labels, views, recipe.model.image_size, recipe.seed, None)
    update = 0
    for epoch, stage in enumerate(recipe.stages):
        apply_stage(model, stage, recipe.batch_norm)
        batches.start(epoch, 0)
        for number, keys in enumerate(batches):
            items = [pictures[key] for key in keys]
            cnn, swin = torch.stack([item[0] for item in items]), torch.stack([item[1] for item in items])
            part = (cnn, swin, torch.tensor([item[2] for item in items]))
            set_rates(updater.adam, recipe, update, 2 * batches.updates)
            updater.gradients([part], batches.labels_of_update(epoch, number), epoch, update)
            gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            assert updater.apply()
            update += 1
    return [gradients, {name: parameter.detach().clone() for name, parameter in model.named_parameters()}]


def gathered_in_order(processes: Processes) -> None:
    """Every sample of a set of odd size comes back once, in its place."""
    total = torch.full((7,), -1)
    for rank, part in enumerate(processes.gather(torch.arange(7)[processes.rank :: processes.count])):
        total[rank :: processes.count] = part
    assert total.tolist() == list(range(7))
    assert distributed.is_initialized()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
