"""Training on another device than the CPU: nothing is mixed, and what is written can be read where there is none."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from app.bundles.reader import read_bundle
from app.engines.torch import load_model
from app.models.feature_maps import FeatureMaps
from tests.support.bundles import describe, tiny_architecture, tiny_model, write_tiny_bundle
from tests.support.second_device import SecondTensor
from training.data.draw import draw_dataset
from training.data.samples import read_samples
from training.evaluation.frozen_trunks import _maps
from training.export.export import mean_maps, write_bundle
from training.export.graphs import write_graphs
from training.loading.forward import predict, prepared_batches
from training.loop.fit import Trainer
from training.loop.overlays import draw_overlays
from training.loop.processes import Processes
from training.loop.session import StopSignal
from training.recipe.config import Recipe
from training.runs.checkpoint import newest_checkpoint
from training.runs.run import Run, new_run, write_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn data, and a bundle that teaches."""
    folder = tmp_path_factory.mktemp("second")
    draw_dataset(folder / "data", 12, seed=2)
    write_tiny_bundle(folder / "teacher", "cnn", seed=5)
    return folder


def recipe(folder: Path) -> Recipe:
    """A run of six updates with what has tensors of its own: teachers, MixUp and CutMix, class weights, averages."""
    model = tiny_architecture().model_dump() | {"image_size": (64, 64), "dropout": 0.2}
    by_map = {"name": "by map", "epochs": 1, "cnn": "frozen", "head": "frozen", "distil": {"from": "cnn"}}
    teacher = {"from": str(folder / "teacher"), "what": "logits"}
    stages = [by_map, {"name": "by logits", "epochs": 1, "distil": teacher}, {"name": "all", "epochs": 1}]
    more = {"augmentation": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}, "imbalance": "class_weights", "keep": "best"}
    more |= {"branch_dropout": {"cnn": 0.3, "swin": 0.3}}
    loading = {"batch_size": 4, "accumulate": 2, "workers": 0, "checkpoint_updates": 1, "keep_checkpoints": 9}
    return Recipe.model_validate(
        {"name": "second", "model": model, "stages": stages, "batch_norm": "sync", "log_updates": 1} | more | loading
    )


def trained(folder: Path, out: str, device: torch.device) -> Run:
    """A whole run on a device."""
    run = new_run(recipe(folder), folder / "data", folder / out)
    write_run(run)
    go_on(run, device, None)
    return run


def go_on(run: Run, device: torch.device, state: dict[str, Any] | None) -> None:
    """Train a run to its end, from the state of a checkpoint if there is one. The best weights are kept on the CPU."""
    said: list[str] = []
    trainer = Trainer(run, Processes(0, 1, device), said.append, state)
    trainer.train((), StopSignal())
    assert said[-1].startswith("finished after 6 updates"), said
    kept = trainer.state.best.weights
    assert kept and all(type(tensor) is Tensor and tensor.device == CPU for tensor in kept.values())


def weights(run: Run) -> dict[str, Tensor]:
    return safetensors.torch.load_file(run.weights)


def tensors_in(document: object) -> Iterator[Tensor]:
    if isinstance(document, Tensor):
        yield document
    for value in document.values() if isinstance(document, Mapping) else document if isinstance(document, list) else ():
        yield from tensors_in(value)


def test_a_run_ends_as_on_the_cpu_and_goes_on_from_what_it_wrote(folder: Path, second: torch.device) -> None:
    whole = trained(folder, "whole", second)
    for name, expected in weights(trained(folder, "on-the-cpu", CPU)).items():
        torch.testing.assert_close(weights(whole)[name], expected, rtol=1e-4, atol=1e-5, msg=name)
    (third,) = whole.checkpoints.glob("00000003-*.pt")
    with pytest.raises(RuntimeError, match="map_location"):
        torch.load(third, weights_only=True)
    shutil.copytree(whole.folder, folder / "half")
    half = replace(whole, folder=folder / "half")
    for later in (half.weights, *half.checkpoints.glob("0000000[456]-*.pt")):
        later.unlink()
    state, damaged = newest_checkpoint(half.checkpoints)
    assert state is not None and not damaged
    found = list(tensors_in(state))
    assert len(found) > 100 and all(type(tensor) is Tensor and tensor.device == CPU for tensor in found)
    go_on(half, second, state)
    assert all(torch.equal(weights(half)[name], tensor) for name, tensor in weights(whole).items())


def test_what_is_made_of_a_model_on_the_device_is_what_the_cpu_makes(
    folder: Path, second: torch.device, tmp_path: Path
) -> None:
    samples = read_samples(folder / "data")
    here = tiny_model().requires_grad_(False)
    there = tiny_model().requires_grad_(False).to(second)
    assert isinstance(next(there.parameters()), SecondTensor)
    found, expected = ([*everything(model, samples, tmp_path / name)] for name, model in (("a", there), ("b", here)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    bundle = read_bundle(tmp_path / "a" / "bundle")
    stored = load_model(bundle).state_dict()
    assert all(torch.equal(stored[name], value.half().to(value.dtype)) for name, value in here.state_dict().items())


def everything(model: Any, samples: Any, out: Path) -> Iterator[np.ndarray]:
    """What evaluation, tracking and export compute with a model on its device; a bundle is written to `out`."""
    batches = list(prepared_batches(samples, (64, 64), None))
    means: FeatureMaps[np.ndarray] = mean_maps(model, batches)
    yield from means.values()
    yield predict(model, batches)
    for maps in _maps(model, samples, Recipe(name="any", model={"image_size": (64, 64)}), out / "maps").values():  # type: ignore[arg-type]
        yield np.asarray(maps, np.float32)
    pictures = np.ascontiguousarray(batches[0][:2].permute(0, 2, 3, 1).numpy())
    for _, overlay in draw_overlays(model, pictures, [0, 1], ["a", "b"]):
        yield overlay
    rounded = model.half().float()  # as a bundle stores it
    write_bundle(rounded, out / "bundle", describe(), means, write_graphs(rounded, []), None)


def test_a_file_from_the_device_is_read_by_who_says_to_which(second: torch.device) -> None:
    content = io.BytesIO()
    torch.save({"there": torch.ones(2, device=second), "here": torch.zeros(2)}, content)
    content.seek(0)
    assert torch.load(content, map_location="cpu", weights_only=True)["there"].tolist() == [1, 1]
