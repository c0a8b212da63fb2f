"""The torch engine on another device than the CPU: nothing is mixed, and nothing is left behind there."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.engines.torch import TorchEngine, device_of, on_device
from app.explain.integrated import gauss_patterson
from app.models.cnnswin import FUSIONS, CNNViTFusion, Fusion
from app.models.feature_maps import unbatched
from tests.engines.test_engines import arrays, assert_close
from tests.support.bundles import random_model, tiny_architecture, tiny_model, write_tiny_bundle

TARGETS = np.array([[1, 0], [-1, 1]], np.float32)
VIT = {"swin": "vit_tiny_patch16_224", "swin_options": {"depth": 2, "embed_dim": 24, "num_heads": 2}}


def pictures() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (2, 64, 64, 3), np.uint8)


def everything(engine: TorchEngine) -> dict[str, np.ndarray]:
    """What the engine answers to every question that its model can be asked."""
    maps = engine.encode(pictures())
    explained = engine.explain(maps, TARGETS)
    found = {f"{branch} map": feature_map for branch, feature_map in maps.items()} | arrays(explained)
    found["classified"] = engine.classify(maps)
    found |= {
        f"answered {name}": values for name, values in arrays(engine.answer(maps, np.ones(2, np.float32))).items()
    }
    end, start = unbatched(maps)
    evidence = engine.path_evidence(end, start, gauss_patterson(15).positions, TARGETS)
    found |= {f"evidence of {branch}": values for branch, values in evidence.items()}
    groups = end.map(lambda feature_map: np.array([[0, 1], [2, len(feature_map)]]))
    found["ablated"] = engine.ablated_logits(end, start, groups)
    if engine.token_stages:
        gradient = explained.gradients.transformer
        assert gradient is not None
        tokens = engine.tokens(pictures()[0], gradient[0])
        found |= {f"tokens {height}": values for height, values in tokens.saliency.items()}
        found |= {} if tokens.attention is None else {"attention of tokens": tokens.attention}
    return found


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert_close(found[name], values, 1e-6)


def answers_as_on_the_cpu(model: CNNViTFusion, device: torch.device) -> None:
    expected = everything(TorchEngine(model))
    engine = TorchEngine(model, device)
    assert (engine.device, device_of(model).type) == (device, "cpu")
    same(everything(engine), expected)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: everything(engine), range(8)):
            same(found, expected)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_answer_is_that_of_the_cpu(fusion: Fusion, second: torch.device) -> None:
    answers_as_on_the_cpu(tiny_model(fusion), second)


def test_a_vit_that_sees_another_size_answers_as_on_the_cpu(second: torch.device) -> None:
    fields = tiny_architecture().model_dump() | VIT | {"swin_image_size": (48, 48)}
    answers_as_on_the_cpu(random_model(image_size=(64, 64), **fields), second)


def test_a_bundle_is_loaded_onto_the_device_and_a_model_comes_back_from_it(
    second: torch.device, tmp_path: Path
) -> None:
    bundle = read_bundle(write_tiny_bundle(tmp_path / "bundle"))
    engine = load_engine(bundle, "torch", device=str(second))
    assert isinstance(engine, TorchEngine) and engine.device == second
    same(everything(engine), everything(TorchEngine(on_device(engine._model, "cpu"))))
    assert all(type(tensor) is torch.Tensor for tensor in on_device(engine._model, "cpu").state_dict().values())


def test_the_device_itself_refuses_what_a_gpu_refuses(second: torch.device) -> None:
    there, here = torch.ones(3, device=second), torch.ones(3)
    mixes: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: there + here,
        lambda: here @ there,
        lambda: torch.cat([there, here]),
        lambda: there[here.long()],
    )
    for mix in mixes:
        with pytest.raises(RuntimeError, match="on the CPU"):
            mix()
    with pytest.raises(TypeError, match=r"Tensor\.cpu"):
        there.numpy()
    assert (there + torch.tensor(1.0)).cpu().tolist() == [2, 2, 2]
