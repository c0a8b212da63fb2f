"""Models for the engine tests, each as a bundle, as a module and as graphs: every fusion, two seeds, and the demo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from app.bundles.manifest import Description
from app.bundles.reader import Bundle, read_bundle
from app.engines.cpu import available_cores
from app.engines.load import load_engine
from app.engines.openvino import openvino_engine
from app.engines.protocol import Engine, EngineKind
from app.engines.runtime import ov
from app.engines.torch import load_model
from app.files import DEMO_BUNDLE
from app.models.cnnswin import FUSIONS, CNNViTFusion
from app.models.feature_maps import FeatureMaps
from app.shapes import UInt8
from tests.support.artifacts import build_once
from tests.support.bundles import describe, tiny_model, tiny_reference
from training.export.export import write_bundle
from training.export.graphs import to_fp16_files
from training.export.tracing import Graphs, trace

# Tracing takes seconds, so not every case is one of OpenVINO's, and the demo is one of its slow ones.
CASES: Mapping[EngineKind, tuple[str, ...]] = {
    "torch": (*FUSIONS, "cross_attention-seed-1", "demo"),
    "openvino": (*FUSIONS, "demo"),
}
LINEAR = "linear-"  # a branch behind this: its head is one mean and one linear layer


@dataclass(frozen=True)
class Case:
    """A bundle, and the module with the same (fp16-rounded) weights, which no engine has touched.

    What is written for the case lies beside `folder`.
    """

    name: str
    model: CNNViTFusion
    bundle: Bundle
    folder: Path
    _engines: dict[EngineKind, Engine] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        return len(self.bundle.manifest.classes)

    @property
    def images(self) -> UInt8[np.ndarray, "3 h w 3"]:
        """Three pictures of noise, always the same."""
        return np.random.default_rng(11).integers(0, 256, (3, *self.model.image_size, 3), np.uint8)

    @cached_property
    def graphs(self) -> Graphs:
        """The model's graphs in float32."""
        folder = self.folder.with_name(f"{self.folder.name}-graphs")
        build_once(f"{__name__}:write_case_graphs", folder, self.name, self.bundle.sha256)
        parts = ((folder / f"{part}.xml") for part in Graphs._fields)
        return Graphs(*(ov.Core().read_model(part) if part.exists() else None for part in parts))

    @cached_property
    def compiled(self) -> Bundle:
        """The bundle with the graphs in it, in fp16."""
        manifest, out = self.bundle.manifest, self.folder.with_name(f"{self.folder.name}-compiled")
        description = Description(**{name: getattr(manifest, name) for name in Description.model_fields})
        write_bundle(self.model, out, description, self.bundle.baseline, to_fp16_files(self.graphs), None)
        return read_bundle(out)

    def engine(self, kind: EngineKind) -> Engine:
        """The case's engine of this kind, one for all tests."""
        if kind not in self._engines:
            self._engines[kind] = self.new_engine(kind)
        return self._engines[kind]

    def new_engine(self, kind: EngineKind) -> Engine:
        """Another engine for the same bundle, exact: OpenVINO's runs graphs in float32, as none stores them."""
        return (
            openvino_engine(*self.graphs, available_cores()) if kind == "openvino" else load_engine(self.bundle, kind)
        )


# Parameters of tests: an engine, and the name of one of its cases.
EACH_CASE = [
    pytest.param(kind, name, marks=pytest.mark.slow if (kind, name) == ("openvino", "demo") else ())
    for kind, names in CASES.items()
    for name in names
]
EACH_OPENVINO_CASE = [case for case in EACH_CASE if case.values[0] == "openvino"]


def make_case(name: str, folder: Path) -> Case:
    """The case called `name`: one of `CASES`, or a branch behind `LINEAR`. Its bundle, but the demo, is in `folder`."""
    bundle = read_bundle(DEMO_BUNDLE if name == "demo" else build_once(f"{__name__}:write_case_bundle", folder, name))
    return Case(name, load_model(bundle), bundle, folder)


def write_case_bundle(folder: Path, name: str) -> None:
    """The bundle of the case called `name`, a tiny model of five classes."""
    seed = int(name.rpartition("-seed-")[2]) if "-seed-" in name else 0
    fusion = next(fusion for fusion in FUSIONS if name.removeprefix(LINEAR).startswith(fusion))
    model = tiny_model(fusion, classes=5, seed=seed)
    if name.startswith(LINEAR):
        down = model.head.get_submodule(f"branches.{fusion}.mlp.down")
        assert isinstance(down, nn.Linear)
        nn.init.zeros_(down.weight)
        nn.init.zeros_(down.bias)
    model.half().float()  # as a bundle stores it
    write_bundle(model, folder, describe(fusion, classes=5), tiny_reference(model), {}, None)


def write_case_graphs(folder: Path, name: str, sha256: str) -> None:
    """Trace the case called `name`, whose bundle has this hash, and write its graphs in float32."""
    with TemporaryDirectory() as temporary:
        case = make_case(name, Path(temporary) / name)
        assert case.bundle.sha256 == sha256
        for part, graph in trace(case.model)._asdict().items():
            if graph is not None:
                ov.save_model(graph, folder / f"{part}.xml", compress_to_fp16=False)


@dataclass(frozen=True)
class WholeModel:
    """What autograd gives when the score is differentiated through the whole model, and at what."""

    logits: Tensor
    sources: dict[str, Tensor]
    gradients: dict[str, Tensor]


def autograd_through_the_whole_model(case: Case, index: int) -> WholeModel:
    """Ordinary Grad-CAM: one forward from the picture to the logits with hooks at the maps, then backward."""
    sources: dict[str, Tensor] = {}

    def note(_: nn.Module, arguments: tuple[FeatureMaps[Tensor]], output: tuple[Tensor, Tensor | None]) -> None:
        sources.update(arguments[0].items())
        if output[1] is not None:
            sources["attention"] = output[1]

    picture = torch.tensor(case.images[:1]).permute(0, 3, 1, 2).float().div(255).requires_grad_()
    hook = case.model.head.register_forward_hook(note)
    logits = case.model(picture)
    hook.remove()
    found = torch.autograd.grad(logits[0, index], [picture, *sources.values()])
    assert found[0].any(), "the graph does not reach the picture"
    gradients = {f"{name}_gradient": gradient for name, gradient in zip(sources, found[1:], strict=True)}
    return WholeModel(logits.detach(), {name: source.detach() for name, source in sources.items()}, gradients)
