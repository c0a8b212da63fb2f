"""What every engine owes those who ask about the Swin's tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch

from app.bundles.graph_names import GRAPHS, LIFTED, TOKENS
from app.bundles.reader import read_bundle
from app.drawing.png import encode_png
from app.engines.compiled import BundleCompiler
from app.engines.load import load_engine
from app.engines.protocol import EngineKind
from app.errors import BadParameter, BundleError, NotOffered
from app.pictures.decode import Limits
from app.predicting.predictor import Predictor
from app.predicting.request import AttentionRequest, TokenRequest
from tests.support.engine_cases import Case

ENGINES: tuple[EngineKind, ...] = ("torch", "openvino")
CROSS_ATTENTION = "cross_attention"


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(
    "case_name", [CROSS_ATTENTION, *(pytest.param(name, marks=pytest.mark.slow) for name in ("late", "swin"))]
)
def test_token_saliency_is_autograds_through_the_whole_model(
    case_name: str, kind: EngineKind, case_of: Callable[[str], Case]
) -> None:
    case = case_of(case_name)
    engine, image = case.engine(kind), case.images[0]
    pixels = torch.tensor(image[None]).permute(0, 3, 1, 2).float() / 255
    maps = engine.encode(image[None])
    target = np.eye(case.classes, dtype=np.float32)[1:2]
    gradient = engine.explain(maps, target).gradients["swin"]
    found = engine.tokens(image, gradient[0])
    assert tuple(found.saliency) == engine.token_stages == (16, 8, 4)
    for height, saliency in found.saliency.items():
        # The tiny model has no weights to train: the pixels are what autograd starts from.
        output = case.model.forward_with_tokens(pixels.clone().requires_grad_(), token_stage=height)
        (by_token,) = torch.autograd.grad(output.logits[0, 1], output.tokens)
        expected = (output.tokens * by_token).abs().sum(dim=-1)[0].detach().numpy()
        np.testing.assert_allclose(saliency, expected, rtol=0, atol=1e-4 * expected.max())


def test_both_engines_show_the_same_attention_of_the_swins_last_layer(case_of: Callable[[str], Case]) -> None:
    case = case_of(CROSS_ATTENTION)
    nothing = np.zeros(case.bundle.manifest.map_shapes["swin"], np.float32)
    ours, theirs = (case.engine(kind).tokens(case.images[0], nothing).attention for kind in ENGINES)
    assert ours is not None and theirs is not None
    assert ours.shape == (2, 16, 16)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.sum(axis=-1), 1, rtol=0, atol=1e-5)
    # windows of 2 × 2 on 4 × 4 cells: each looks at 4 of the 16 (the shift's mask cuts some of these off)
    assert ((ours > 0).sum(axis=-1) <= 4).all()


@pytest.mark.parametrize("kind", ENGINES)
def test_a_model_without_swin_says_that_it_has_no_tokens(kind: EngineKind, case_of: Callable[[str], Case]) -> None:
    case = case_of("cnn")
    predictor = Predictor(case.bundle, case.engine(kind), Limits(), preview_side_px=64)
    assert predictor.engine.token_stages == ()
    prediction, _ = predictor.predict(predictor.open(encode_png(case.images[0])))
    with pytest.raises(NotOffered, match="cannot explain the transformer's tokens"):
        predictor.explain_one(prediction, TokenRequest())
    with pytest.raises(NotOffered, match="cannot explain the transformer's tokens"):
        predictor.explain_one(prediction, AttentionRequest(layer="swin"))


def test_a_stored_graph_answers_as_the_module_does_and_its_numbers_lie_in_the_trunks(tiny_bundle: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    assert set(bundle.graphs) == {*GRAPHS, *LIFTED, TOKENS}
    gradient = np.random.default_rng(3).standard_normal(bundle.manifest.map_shapes["swin"]).astype(np.float32)
    image = np.random.default_rng(4).integers(0, 256, (64, 64, 3), np.uint8)
    module, stored = (load_engine(bundle, kind).tokens(image, gradient) for kind in ENGINES)
    for height, saliency in module.saliency.items():
        np.testing.assert_allclose(stored.saliency[height], saliency, rtol=0, atol=1e-2 * saliency.max())


def test_a_graph_that_changed_on_disk_after_the_start_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = copytree(tiny_bundle, tmp_path / "bundle")
    engine = load_engine(read_bundle(folder), "openvino")
    packed = folder / "tokens.xml.gz"
    packed.write_bytes(packed.read_bytes()[:-1] + b"!")
    with pytest.raises(BundleError, match="copy or export it again"):
        engine.tokens(np.zeros((64, 64, 3), np.uint8), np.zeros((32, 4, 4), np.float32))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokens.xml.gz": b"\x1f\x8b no gzip"}, "is not a graph that OpenVINO"),
        ({"tokens.xml.gz": b""}, "is not a graph that OpenVINO"),
        ({"trunk.bin": b""}, "is not a graph that OpenVINO"),
    ],
)
def test_a_tokens_graph_that_cannot_be_read_is_refused(
    change: dict[str, bytes], reason: str, tiny_bundle: Path
) -> None:
    bundle = read_bundle(tiny_bundle)
    with pytest.raises(BundleError, match=reason):
        BundleCompiler(replace(bundle, graphs={**bundle.graphs, **change}), 1, None)("tokens", 1, None)


def test_a_tokens_graph_of_another_model_is_refused(tiny_bundle: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    manifest = bundle.manifest.model_copy(update={"token_stages": (32, 16, 8)})
    with pytest.raises(BundleError, match="has no output tokens_32"):
        BundleCompiler(replace(bundle, manifest=manifest), 1, None)("tokens", 1, None)


def test_a_stage_that_there_is_not_is_named_with_those_that_there_are(case_of: Callable[[str], Case]) -> None:
    case = case_of(CROSS_ATTENTION)
    predictor = Predictor(case.bundle, case.engine("torch"), Limits(), preview_side_px=64)
    prediction, _ = predictor.predict(predictor.open(encode_png(case.images[0])))
    with pytest.raises(BadParameter, match="choose one of 16, 8, 4"):
        predictor.explain_one(prediction, TokenRequest(7))
    default, last = (predictor.explain_one(prediction, TokenRequest(stage)) for stage in (None, 4))
    np.testing.assert_array_equal(default.heatmap, last.heatmap)
    assert predictor.explain_one(prediction, TokenRequest(16)).heatmap.shape == (16, 16)
    with pytest.raises(BadParameter, match="method raw alone"):
        predictor.explain_one(prediction, AttentionRequest(layer="swin", method="gradient"))
