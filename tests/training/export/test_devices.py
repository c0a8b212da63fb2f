"""Export on a machine with a GPU. There is none here: what would be sent to it fails, and is seen by that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.engines.torch import TorchEngine, device_of, load_model, on_device
from tests.support.bundles import describe, tiny_model, write_tiny_bundle
from training.data.draw import draw_dataset
from training.data.samples import read_samples
from training.export.export import _check_logits, mean_maps, write_bundle
from training.loading.forward import predict, prepared_batches, to_engine_batches
from training.loop.overlays import draw_overlays


@pytest.fixture
def gpu_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says that there is a GPU, and fails where one is used."""
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1, device="cuda")


def test_an_engine_leaves_its_callers_model_where_it_was() -> None:
    model = tiny_model()
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    elsewhere = TorchEngine(model, "meta")
    assert (elsewhere.device.type, device_of(model).type) == ("meta", "cpu")
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == before
    assert on_device(model, "cpu") is model and TorchEngine(model).device.type == "cpu"
    assert TorchEngine(elsewhere._model).device.type == "meta"


def test_what_export_computes_and_checks_needs_no_gpu(gpu_elsewhere: None, tmp_path: Path) -> None:
    draw_dataset(tmp_path / "data", 4, seed=1)
    samples = read_samples(tmp_path / "data")
    model = tiny_model().half().float()
    baseline = mean_maps(model, prepared_batches(samples, (64, 64), None))
    write_bundle(model, tmp_path / "bundle", describe(), baseline, {}, None)
    logits = predict(model, prepared_batches(samples, (64, 64), None))
    _check_logits(read_bundle(tmp_path / "bundle"), samples, logits)
    # Graphs are compared with this engine. Making them asks torch for its GPUs, which it cannot be made to believe in.
    engine, images = (
        TorchEngine(model, "cpu"),
        np.concatenate(list(to_engine_batches(prepared_batches(samples, (64, 64), None)))),
    )
    np.testing.assert_allclose(engine.classify(engine.encode(images)), logits, rtol=0, atol=1e-5)


def test_a_model_in_training_is_drawn_where_it_is(gpu_elsewhere: None) -> None:
    model = tiny_model()
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    assert len(draw_overlays(model, images, [0, 1], ["a", "b"])) == 2
    assert device_of(model).type == "cpu"


def test_an_engine_runs_on_the_device_that_is_named(gpu_elsewhere: None, tmp_path: Path) -> None:
    bundle = read_bundle(write_tiny_bundle(tmp_path / "bundle"))
    engine = load_engine(bundle, "torch", device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    maps, expected = engine.encode(images), TorchEngine(load_model(bundle)).encode(images)
    for branch, feature_map in maps.items():
        np.testing.assert_allclose(feature_map, expected[branch], rtol=0, atol=1e-5)
    with pytest.raises((AssertionError, RuntimeError)):  # by itself it takes the GPU
        load_engine(bundle, "torch")
