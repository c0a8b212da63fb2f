"""What only the torch engine must hold: the module stays as it was loaded, and so does its caller's grad mode."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch

from app.bundles.reader import Bundle, read_bundle
from app.engines.torch import TorchEngine, load_model

TARGET = np.array([[1, -1]], np.float32)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return read_bundle(tiny_bundle)


@pytest.fixture
def image(bundle: Bundle) -> np.ndarray:
    """One picture of noise, as a batch."""
    size = (bundle.manifest.input.height_px, bundle.manifest.input.width_px)
    return np.random.default_rng(4).integers(0, 256, (1, *size, 3), np.uint8)


def test_an_explanation_leaves_the_module_as_it_was_loaded(bundle: Bundle, image: np.ndarray) -> None:
    engine = TorchEngine(load_model(bundle))
    for _ in range(3):
        engine.explain(engine.encode(image), TARGET)
    model = engine._model
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None and not p.requires_grad and p.is_leaf for p in model.parameters())
    for module in model.modules():
        assert not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
    loaded = load_model(bundle).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.cpu(), loaded[name])


def test_no_graph_outlives_its_explanation(bundle: Bundle, image: np.ndarray) -> None:
    engine = TorchEngine(load_model(bundle))
    before = in_a_graph()
    result = engine.explain(engine.encode(image), TARGET)
    assert result.gradients.keys() == {"cnn", "swin"}
    assert in_a_graph() <= before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_the_callers_grad_mode_neither_matters_nor_changes(
    mode: type[AbstractContextManager[None]], bundle: Bundle, image: np.ndarray
) -> None:
    engine = TorchEngine(load_model(bundle))

    def ask() -> list[np.ndarray | None]:
        maps = engine.encode(image)
        head = engine.explain(maps, TARGET)
        return [*maps.values(), head.logits, *head.gradients.values(), head.attention, head.attention_gradient]

    expected = ask()
    with mode():
        before = torch.is_grad_enabled()
        found = ask()
        assert torch.is_grad_enabled() is before
    assert not any(array is None for array in found)
    for array, same in zip(found, expected, strict=True):
        np.testing.assert_array_equal(array, same)


def in_a_graph() -> set[int]:
    """The tensors that Python still holds and autograd could differentiate."""
    gc.collect()
    return {id(held) for held in gc.get_objects() if type(held) is torch.Tensor and held.requires_grad}
