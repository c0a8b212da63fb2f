"""Graphs of a model: whichever do not answer as the model does are refused, and the output is named."""

from __future__ import annotations

import copy
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from app.__main__ import main as serve_main
from app.bundles.graph_names import GRAPHS, LIFTED, TOKENS
from app.bundles.manifest import MANIFEST
from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.engines.protocol import Engine, EngineKind, HeadResult, TokenResult
from app.engines.torch import TorchEngine, load_model
from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import FeatureMaps
from app.shapes import Float, Float32, UInt8
from tests.support.bundles import tiny_model, write_tiny_bundle
from tests.support.engine_cases import EACH_OPENVINO_CASE, Case
from tests.support.full_disk import files_of_at_most
from tests.support.trusted import write_trusted
from training.cli import main
from training.data.draw import draw_dataset
from training.export.graphs import GraphError, _check_exact, _check_stored, check_exportable, write_graphs
from training.export.tracing import graph_of_any_length, trace

OFF = 1.001
HEAD_OUTPUTS = {
    "logits": "the head's logits",
    "attention": "the head's attention",
    "cnn_gradient": "the head's gradient with respect to the cnn map",
    "swin_gradient": "the head's gradient with respect to the swin map",
    "attention_gradient": "the head's gradient with respect to the attention",
}


@dataclass
class Erring:
    """An engine that is right but for one output, which is off by a factor."""

    right: Engine
    output: str
    factor: float = OFF
    name: str = "erring"
    version: str = "1"
    concurrency: int = 1
    batch_size: int = 1

    token_stages: tuple[int, ...] = (16, 8, 4)
    has_token_attention: bool = True
    is_lifted: bool = True

    def compile_tokens(self) -> None:
        self.right.compile_tokens()

    def encode(self, images: UInt8[np.ndarray, "b h w 3"]) -> FeatureMaps[np.ndarray]:
        maps = self.right.encode(images)
        return FeatureMaps({branch: m * (self.factor if branch == self.output else 1) for branch, m in maps.items()})

    def classify(self, maps: FeatureMaps[np.ndarray]) -> Float32[np.ndarray, "b k"]:
        return self.right.classify(maps) * np.float32(self.factor if self.output == "classified" else 1)

    def explain(self, maps: FeatureMaps[np.ndarray], target: Float[np.ndarray, "b k"]) -> HeadResult:
        result = self.right.explain(maps, target)
        if self.output not in HEAD_OUTPUTS:
            return result
        factor, branch = np.float32(self.factor), self.output.removesuffix("_gradient")
        if branch in result.gradients:
            gradients = {name: g * (factor if name == branch else 1) for name, g in result.gradients.items()}
            return replace(result, gradients=FeatureMaps(gradients))
        return replace(result, **{self.output: getattr(result, self.output) * factor})

    def path_evidence(
        self,
        maps: FeatureMaps[np.ndarray],
        baseline: FeatureMaps[np.ndarray],
        positions: Float[np.ndarray, " nodes"],
        targets: Float[np.ndarray, "targets k"],
    ) -> FeatureMaps[np.ndarray]:
        evidence = self.right.path_evidence(maps, baseline, positions, targets)
        factors = {b: np.float32(self.factor if self.output == f"{b}_evidence" else 1) for b in evidence}
        return FeatureMaps({branch: values * factors[branch] for branch, values in evidence.items()})

    def ablated_logits(
        self, maps: FeatureMaps[np.ndarray], baseline: FeatureMaps[np.ndarray], groups: FeatureMaps[np.ndarray]
    ) -> Float[np.ndarray, "all_groups k"]:
        factor = np.float32(self.factor if self.output == "ablated" else 1)
        return self.right.ablated_logits(maps, baseline, groups) * factor

    def answer(self, maps: FeatureMaps[np.ndarray], bias: Float[np.ndarray, " k"]) -> HeadResult:
        return self.right.answer(maps, bias)

    def tokens(self, image: UInt8[np.ndarray, "h w 3"], gradient: Float[np.ndarray, "c gh gw"]) -> TokenResult:
        right = self.right.tokens(image, gradient)
        assert right.attention is not None
        factors = {
            height: np.float32(self.factor if self.output == f"tokens_{height}" else 1) for height in right.saliency
        }
        attention = right.attention * np.float32(self.factor if self.output == "swin_attention" else 1)
        return TokenResult({height: right.saliency[height] * factor for height, factor in factors.items()}, attention)


@pytest.fixture
def main_case(case_of: Callable[[str], Case]) -> Case:
    return case_of("cross_attention")


@pytest.mark.parametrize(
    ("output", "named"),
    [
        *((branch, f"the trunk's {branch} map") for branch in ("cnn", "swin")),
        *HEAD_OUTPUTS.items(),
        ("classified", "the head's logits without gradients"),
        *((f"{branch}_evidence", f"the evidence of the {branch} map") for branch in ("cnn", "swin")),
        ("ablated", "the logits with ablated channels"),
        ("tokens_16", "the saliency of 16 rows of tokens"),
        ("swin_attention", "the tokens' attention"),
    ],
)
def test_a_graph_that_errs_in_one_output_is_refused_by_its_name(main_case: Case, output: str, named: str) -> None:
    right = main_case.engine("torch")
    images = [main_case.images]
    _check_exact(right, Erring(right, output, 1 + 1e-7), images)
    # The trunk's limit is 1e-3, of a sum of thousands; the head's is 1e-5.
    with pytest.raises(GraphError, match=rf"^{named}: the largest error is .* of its scale"):
        _check_exact(right, Erring(right, output, 1.01 if output in ("cnn", "swin") else OFF), images)
    with pytest.raises(GraphError, match=rf"^{named}: the largest error is nan"):
        _check_exact(right, Erring(right, output, float("nan")), images)


@pytest.mark.parametrize("part", ["cnn", "swin", "head"])
def test_graphs_made_before_a_weight_changed_are_refused(main_case: Case, part: str) -> None:
    later = copy.deepcopy(main_case.model)
    with torch.no_grad():
        weight = next(p for name, p in later.named_parameters() if name.startswith(f"{part}.") and p.ndim >= 2)
        weight[0] += 0.1 * weight.abs().max()
    named = "the head's logits without gradients" if part == "head" else f"the trunk's {part} map"
    with pytest.raises(GraphError, match=f"^{named}: the largest error is"):
        _check_exact(TorchEngine(later), main_case.engine("openvino"), [main_case.images])


@pytest.mark.parametrize("case_name", ["cross_attention", "cnn"])  # tracing takes long, and is the same for others
def test_making_graphs_leaves_the_model_as_it_was(case_name: str, case_of: Callable[[str], Case]) -> None:
    case = case_of(case_name)
    assert trace(case.model)
    before = load_model(case.bundle).state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in case.model.state_dict().items())
    assert not any(module.training for module in case.model.modules())
    assert all(parameter.grad is None for parameter in case.model.parameters())


@pytest.mark.parametrize(("kind", "case_name"), EACH_OPENVINO_CASE)
def test_what_fp16_changes_in_a_models_graphs_is_within_the_bounds(
    kind: EngineKind, case_name: str, case_of: Callable[[str], Case]
) -> None:
    case = case_of(case_name)
    stored = load_engine(case.compiled, kind)
    _check_stored(case.engine("torch"), stored, [case.images])
    with pytest.raises(GraphError, match="in fp16 the graphs' logits are"):
        _check_stored(case.engine("torch"), Erring(stored, "classified", 1.1), [case.images])


def test_a_temporary_folder_that_is_full_or_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, where = tiny_model(), re.escape(f"temporary folder, {tmp_path} (")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with files_of_at_most(4000), pytest.raises(GraphError, match=where + ".*set TMPDIR to a folder"):
        check_exportable(model, pytest.fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(GraphError, match=r"none \(No such file or directory\)"):
        check_exportable(model, pytest.fail)


class Fickle(nn.Module):
    """A layer that answers otherwise every time, so that no graph can stand for it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.asked = layer, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        answer: Tensor = self.layer(x)
        return answer * (1 + self.asked / 100)


def test_a_model_that_no_graph_can_stand_for_is_refused() -> None:
    model = tiny_model("cnn").half().float()
    projection = model.head.get_submodule("branches.cnn.projection")
    model.head.get_submodule("branches.cnn").projection = Fickle(projection)
    with pytest.raises(GraphError, match=r"^the head's logits without gradients: the largest error is"):
        write_graphs(model, [])


class OfThree(nn.Module):
    """Adds something that three items, or one, can be added to."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(3, 1)


def test_what_holds_for_one_length_alone_makes_no_graph_for_any() -> None:
    assert graph_of_any_length(OfThree(), [torch.zeros(3, 2)], [[3, 2]]).outputs[0].partial_shape == [3, 2]
    with pytest.raises(ValueError, match="depends on the lengths"):
        graph_of_any_length(OfThree(), [torch.zeros(3, 2)], [[-1, 2]])


def test_a_model_whose_weights_fp16_cannot_hold_is_refused() -> None:
    model = tiny_model("cnn").half().float()
    with torch.no_grad():
        model.head.get_parameter("branches.cnn.classifier.weight")[0, 0] = 1e6
    with pytest.raises(GraphError, match=r"^in fp16 the graphs' logits are"):
        write_graphs(model, [])


def test_compile_adds_graphs_to_a_bundle_and_changes_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Three classes: as many as a batch may have while a graph is made.
    source = write_trusted(write_tiny_bundle(tmp_path / "plain", "cnn", classes=3), tmp_path / "source")
    draw_dataset(tmp_path / "data", 8, seed=1)
    out = tmp_path / "out"
    assert main(["compile", str(source), str(out), "--data", str(tmp_path / "data")]) == 0
    compiled = read_bundle(out)
    assert capsys.readouterr().out == f"{out}: {compiled.sha256}\n"
    assert {file.name for file in out.iterdir()} == {file.name for file in source.iterdir()} | {*GRAPHS, *LIFTED}
    for file in source.iterdir():
        if file.name != MANIFEST:
            assert (out / file.name).read_bytes() == file.read_bytes()
    before, after = (json.loads((folder / MANIFEST).read_text()) for folder in (source, out))
    assert before.pop("files").items() < after.pop("files").items()
    assert before == after

    assert serve_main(["check", str(out)]) == 0
    assert "engine   openvino" in capsys.readouterr().out or torch.cuda.is_available()
    assert main(["compile", str(source), str(out)]) != 0
    assert "exists and is not empty" in capsys.readouterr().err


@pytest.mark.slow
def test_the_default_backbones_make_graphs_too() -> None:
    torch.manual_seed(0)
    model = CNNViTFusion(2).eval().half().float()
    assert set(write_graphs(model, [])) == {*GRAPHS, *LIFTED, TOKENS}
