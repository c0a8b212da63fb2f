"""A model traced to plain inference graphs: the trunk as it is, and what has derivatives together with them.

The head is traced with the derivative of the score by the maps and by the attention, the Swin's tokens with the way
back through the Swin: differentiation happens once, here, and what is left is arithmetic.
"""

from __future__ import annotations

import logging
from itertools import count
from typing import Any, NamedTuple

import openvino as ov
import torch
from jaxtyping import Float, UInt8
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
from openvino.passes import ConstantFolding, Manager
from torch import Tensor, nn
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from app.bundles.graph_names import gradient_output, token_output
from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import FeatureMaps
from app.models.swin_tokens import SwinTokens, swin_tokens


class Graphs(NamedTuple):
    """A model's graphs in float32. `tokens` is None for a model without Swin tokens to show."""

    trunk: ov.Model
    head: ov.Model
    tokens: ov.Model | None


def trace(model: CNNViTFusion) -> Graphs:
    """All graphs of a model in eval mode."""
    tokens = swin_tokens(model)
    return Graphs(trunk_graph(model), head_graph(model), None if tokens is None else tokens_graph(model, tokens))


class Trunk(nn.Module):
    """Pictures as the service prepares them, uint8 `[B, h, w, 3]`, to the maps that the model has."""

    def __init__(self, model: CNNViTFusion) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: UInt8[Tensor, "b h w 3"]) -> tuple[Float[Tensor, "b _c _h _w"], ...]:
        maps = self.model.encode(images.permute(0, 3, 1, 2).float() / 255)
        return tuple(maps.values())


class HeadWithGradients(nn.Module):
    """Maps and a weighting of the logits to logits, attention where there is one, and the score's gradients by all."""

    def __init__(self, model: CNNViTFusion) -> None:
        super().__init__()
        self.model = model
        self.branches = list(model.map_shapes)

    def forward(self, *maps_and_target: Float[Tensor, "b ..."]) -> tuple[Float[Tensor, "b ..."], ...]:
        *maps, target = maps_and_target
        with torch.enable_grad():
            leaves = [feature_map.detach().requires_grad_() for feature_map in maps]
            logits, attention = self.model.classify(FeatureMaps(zip(self.branches, leaves, strict=True)))
            outputs = [logits] if attention is None else [logits, attention]
            gradients = torch.autograd.grad((logits * target).sum(), [*leaves, *outputs[1:]])
        return (*(answer.detach() for answer in outputs), *gradients)


def trunk_graph(model: CNNViTFusion) -> ov.Model:
    """The trunk, for one picture at a time: on a CPU a batch is no faster, and fixed shapes are."""
    height, width = model.image_size
    shape = (1, height, width, 3)
    program = torch.export.export(Trunk(model), (torch.zeros(shape, dtype=torch.uint8),))
    graph = _convert_unfused(program)
    graph.reshape(list(shape))
    return _name_ports(graph, ["images"], list(model.map_shapes))


def head_graph(model: CNNViTFusion) -> ov.Model:
    """The head with its gradients, for any batch."""
    shapes = [*model.map_shapes.values(), (model.num_classes,)]
    # A trace takes 1 and 2 for constants, and two equal sizes for one and the same.
    batch_size = next(n for n in count(3) if all(n not in shape for shape in shapes))
    example = [torch.zeros(batch_size, *shape) for shape in shapes]
    traced = make_fx(
        HeadWithGradients(model),
        decomposition_table=_decompositions(),
        tracing_mode="symbolic",
        _allow_non_fake_inputs=True,
    )(*example)
    batch = torch.export.Dim("batch")
    program = torch.export.export(traced, tuple(example), dynamic_shapes=tuple({0: batch} for _ in example))
    graph = ov.convert_model(program)
    for parameter, shape in zip(list(graph.inputs), shapes, strict=True):
        parameter.get_node().set_partial_shape(ov.PartialShape([-1, *shape]))
    graph.validate_nodes_and_infer_types()
    attention = ["attention"] if model.fusion == "cross_attention" else []
    gradients = [gradient_output(source) for source in (*model.map_shapes, *attention)]
    return _name_ports(graph, [*model.map_shapes, "target"], ["logits", *attention, *gradients])


def tokens_graph(model: CNNViTFusion, tokens: SwinTokens) -> ov.Model:
    """The saliency of the Swin's tokens at every stage, and its last block's attention, for one picture at a time."""
    height, width = model.image_size
    example = (torch.zeros(1, height, width, 3, dtype=torch.uint8), torch.zeros(1, *model.map_shapes["swin"]))
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels' way back is no arithmetic that a graph could hold
        traced = make_fx(tokens, decomposition_table=_decompositions(), _allow_non_fake_inputs=True)(*example)
    decoder = TorchFXPythonDecoder(traced, None, traced, input_shapes=[list(value.shape) for value in example])
    graph = _convert(decoder)
    # As converted, OpenVINO compiles it to one whose saliency is several percent off: some constant is not what it was.
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(graph)
    stages = [token_output(stage_height) for stage_height in tokens.heights]
    return _name_ports(graph, ["images", "swin_gradient"], [*stages, "swin_attention"])


def _decompositions() -> dict[Any, Any]:
    """How operators that have no counterpart in a graph are written in others that do."""
    aten = torch.ops.aten
    table: dict[Any, Any] = core_aten_decompositions() | get_decompositions(
        [aten.native_layer_norm, aten.native_layer_norm_backward, aten._softmax_backward_data, aten.gelu_backward]
    )
    return table


def _convert_unfused(program: torch.export.ExportedProgram) -> ov.Model:
    """The program as a graph whose constants are the model's own numbers.

    `openvino.convert_model` also folds batch norms into the convolutions before them, and the products are not numbers
    that fp16 holds: the demo's logits were 2e-2 off. Folding belongs to compiling, which happens in float32.
    """
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the decoder reports operators that this torch does not have, with tracebacks
    try:
        decoder = TorchFXPythonDecoder.from_exported_program(program)
    finally:
        logging.disable(previous)
    return _convert(decoder)


def _convert(decoder: TorchFXPythonDecoder) -> ov.Model:
    frontend = FrontEndManager().load_by_framework("pytorch")
    return frontend.convert(frontend.load(decoder))


def _name_ports(graph: ov.Model, inputs: list[str], outputs: list[str]) -> ov.Model:
    """The graph whose ports alone have names: those of other values could take a port's place where they become one."""
    for operation in graph.get_ops():
        for output in operation.outputs():
            output.get_tensor().set_names(set())
    for ports, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    return graph
