"""A model as two plain inference graphs, gradients included, which the service runs without torch.

The trunk is traced as it is. The head is traced together with the derivative of the score by the maps and by the
attention: differentiation happens once, here, and what is left is arithmetic. Both graphs must then answer as the
module does that they were made of, and what storing them in fp16 changes is bounded apart.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import openvino as ov
import torch
from jaxtyping import Float, UInt8
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
from torch import Tensor, nn
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from app.inference.cores import available_cores
from app.inference.engine import Engine, HeadResult
from app.inference.manifest import GRAPHS
from app.inference.openvino_engine import openvino_engine, read_graph
from app.inference.torch_engine import TorchEngine
from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import FeatureMaps

Images = UInt8[np.ndarray, "_b h w 3"]  # batches of one call differ in size

TRUNK_OFF, HEAD_OFF = 1e-3, 1e-5  # most that a graph may differ from the module, over the largest value
STORED_OFF = 1e-2  # most that fp16 storage may change a logit


class GraphError(ValueError):
    """Graphs that do not answer as their module does: which output, and by how much."""


class Trunk(nn.Module):
    """Pictures as the service prepares them, uint8 `[B, h, w, 3]`, to the maps that the model has."""

    def __init__(self, model: CNNViTFusion) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: UInt8[Tensor, "b h w 3"]) -> tuple[Float[Tensor, "b _c _h _w"], ...]:
        maps = self.model.encode(images.permute(0, 3, 1, 2).float() / 255)
        return tuple(feature_map for _, feature_map in maps.items())


class ExplainedHead(nn.Module):
    """Maps and a weighting of the logits to logits, attention where there is one, and the score's gradients by all."""

    def __init__(self, model: CNNViTFusion) -> None:
        super().__init__()
        self.model = model
        self.branches = [branch for branch, _ in model.map_shapes.items()]

    def forward(self, *maps_and_target: Float[Tensor, "b ..."]) -> tuple[Float[Tensor, "b ..."], ...]:
        *maps, target = maps_and_target
        with torch.enable_grad():
            leaves = [feature_map.detach().requires_grad_() for feature_map in maps]
            logits, attention = self.model.classify(FeatureMaps(**dict(zip(self.branches, leaves, strict=True))))
            answers = [logits] if attention is None else [logits, attention]
            gradients = torch.autograd.grad((logits * target).sum(), [*leaves, *answers[1:]])
        return (*(answer.detach() for answer in answers), *gradients)


def trunk_graph(model: CNNViTFusion) -> ov.Model:
    """The trunk, for one picture at a time: on a CPU a batch is no faster, and fixed shapes are."""
    height, width = model.image_size
    shape = (1, height, width, 3)
    program = torch.export.export(Trunk(model), (torch.zeros(shape, dtype=torch.uint8),))
    graph = _as_traced(program)
    graph.reshape(list(shape))
    return _named(graph, ["images"], [branch for branch, _ in model.map_shapes.items()])


def head_graph(model: CNNViTFusion) -> ov.Model:
    """The head with its gradients, for any batch."""
    shapes = [*(shape for _, shape in model.map_shapes.items()), (model.num_classes,)]
    # A trace takes 1 and 2 for constants, and two equal sizes for one and the same.
    batch_size = next(n for n in count(3) if all(n not in shape for shape in shapes))
    example = [torch.zeros(batch_size, *shape) for shape in shapes]
    aten = torch.ops.aten
    to_core: dict[Any, Any] = core_aten_decompositions() | get_decompositions(
        [aten.native_layer_norm, aten.native_layer_norm_backward, aten._softmax_backward_data, aten.gelu_backward]
    )
    traced = make_fx(
        ExplainedHead(model), decomposition_table=to_core, tracing_mode="symbolic", _allow_non_fake_inputs=True
    )(*example)
    batch = torch.export.Dim("batch")
    program = torch.export.export(traced, tuple(example), dynamic_shapes=tuple({0: batch} for _ in example))
    graph = ov.convert_model(program)
    for parameter, shape in zip(list(graph.inputs), shapes, strict=True):
        parameter.get_node().set_partial_shape(ov.PartialShape([-1, *shape]))
    graph.validate_nodes_and_infer_types()
    branches = [branch for branch, _ in model.map_shapes.items()]
    attention = ["attention"] if model.fusion == "cross_attention" else []
    gradients = [f"{source}_gradient" for source in (*branches, *attention)]
    return _named(graph, [*branches, "target"], ["logits", *attention, *gradients])


def as_uploaded(batches: Iterable[UInt8[Tensor, "b 3 h w"]]) -> Iterator[Images]:
    """Prepared pictures as the engines take them: channels last, in numpy."""
    for batch in batches:
        yield np.ascontiguousarray(batch.permute(0, 2, 3, 1).numpy())


def write_graphs(model: CNNViTFusion, pictures: Iterable[Images]) -> dict[str, bytes]:
    """The content of a bundle's graph files, checked against `model` on noise and on `pictures`, batch by batch.

    The model is in eval mode, with its weights as the bundle stores them. Raises GraphError.
    """
    height, width = model.image_size
    noise = np.random.default_rng(0).integers(0, 256, (4, height, width, 3), np.uint8)
    batches = [noise, *pictures]
    trunk, head = trunk_graph(model), head_graph(model)
    module = TorchEngine(model)
    _check_exact(module, openvino_engine(trunk, head, available_cores()), batches)
    files = _in_fp16(trunk, head)
    stored = openvino_engine(read_graph(files, "trunk"), read_graph(files, "head"), available_cores())
    _check_stored(module, stored, batches)
    return files


def _as_traced(program: torch.export.ExportedProgram) -> ov.Model:
    """The program as a graph whose constants are the model's own numbers.

    `openvino.convert_model` also folds batch norms into the convolutions before them, and the products are not numbers
    that fp16 holds: the demo's logits were 2e-2 off. Folding belongs to compiling, which happens in float32.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the decoder reports operators that this torch does not have, with tracebacks
    try:
        decoder = TorchFXPythonDecoder.from_exported_program(program)
    finally:
        logging.disable(before)
    frontend = FrontEndManager().load_by_framework("pytorch")
    return frontend.convert(frontend.load(decoder))


def _check_exact(module: Engine, graphs: Engine, batches: Iterable[Images]) -> None:
    for images in batches:
        maps, from_graph = module.encode(images), graphs.encode(images)
        for branch, expected in maps.items():
            _must_be_close(f"the trunk's {branch} map", getattr(from_graph, branch), expected, TRUNK_OFF)
        logits = module.classify(maps)
        _must_be_close("the head's logits without gradients", graphs.classify(maps), logits, HEAD_OFF)
        for target in _targets(*logits.shape):
            _must_agree(module.explain(maps, target), graphs.explain(maps, target), HEAD_OFF)


def _check_stored(module: Engine, graphs: Engine, batches: Iterable[Images]) -> None:
    for images in batches:
        maps = module.encode(images)
        expected, stored = module.classify(maps), graphs.classify(graphs.encode(images))
        if not (off := float(np.abs(stored - expected).max())) <= STORED_OFF:
            raise GraphError(f"in fp16 the graphs' logits are {off:.1e} off: at most {STORED_OFF:g} is rounding")
        ranked = np.sort(expected, axis=1)
        clear = ranked[:, -1] - ranked[:, -2] > 2 * STORED_OFF  # closer than that, two classes are tied
        if (stored.argmax(axis=1) != expected.argmax(axis=1))[clear].any():
            raise GraphError("in fp16 the graphs choose another class than the model does")
        for target in _targets(*expected.shape):
            _must_agree(module.explain(maps, target), graphs.explain(maps, target), STORED_OFF)


def _must_agree(expected: HeadResult, found: HeadResult, tolerance: float) -> None:
    for name, values in vars(expected).items():
        if values is not None:
            _must_be_close(f"the head's {name}", getattr(found, name), values, tolerance)


def _targets(pictures: int, classes: int) -> Iterator[Float[np.ndarray, "b k"]]:
    """The first and the last class alone, and a contrast of all."""
    yield np.tile(np.eye(classes, dtype=np.float32)[0], (pictures, 1))
    yield np.tile(np.eye(classes, dtype=np.float32)[-1], (pictures, 1))
    yield np.random.default_rng(1).standard_normal((pictures, classes)).astype(np.float32)


def _must_be_close(what: str, found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    off = float(np.abs(found - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
    if not off <= tolerance:  # NaN too
        raise GraphError(f"{what} is {off:.1e} of its scale off the model's: at most {tolerance:g} is rounding")


def _in_fp16(trunk: ov.Model, head: ov.Model) -> dict[str, bytes]:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ov.save_model(trunk, folder / "trunk.xml", compress_to_fp16=True)
        ov.save_model(head, folder / "head.xml", compress_to_fp16=True)
        return {name: (folder / name).read_bytes() for name in GRAPHS}


def _named(graph: ov.Model, inputs: list[str], outputs: list[str]) -> ov.Model:
    for ports, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    return graph
