"""Tracing of a model to OpenVINO inference graphs that include the gradients.

The trunk is traced as it is. The head is traced together with the gradients of the score with respect to the maps and
the attention, and the transformer's tokens together with the backward pass through it. Differentiation happens here,
once; the graphs are plain arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import openvino as ov
import torch
from openvino.frontend import (
    FrontEndManager,
    GeneralFailure,
    InitializationFailure,
    NotImplementedFailure,
    OpConversionFailure,
    OpValidationFailure,
)
from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
from openvino.passes import ConstantFolding, Manager
from torch import Tensor, nn
from torch._decomp import decomposition_table, get_decompositions
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from app.bundles.graph_names import (
    TOKEN_ATTENTION,
    TOKEN_GRADIENT,
    baseline_input,
    channels_input,
    evidence_output,
    gradient_output,
    lifted_output,
    start_input,
    token_output,
)
from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import Branch, FeatureMaps
from app.models.lifted_heads import lifted_head
from app.models.lifting import LiftedHead
from app.models.transformer_tokens import TransformerTokens, transformer_tokens
from app.shapes import Float, UInt8
from training.export.graph_errors import GraphError, TokenGraphError

# What torch and OpenVINO raise for code that they cannot trace or convert.
_TRACING_ERRORS = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError),
    *(OpConversionFailure, OpValidationFailure, GeneralFailure, NotImplementedFailure, InitializationFailure),
)


class Graphs(NamedTuple):
    """A model's graphs in float32.

    `lifted` is None for a head that cannot be lifted, and `tokens` if the model has no transformer.
    """

    trunk: ov.Model
    head: ov.Model
    lifted: ov.Model | None
    tokens: ov.Model | None


def trace(model: CNNViTFusion) -> Graphs:
    """Trace all graphs of a model that is on the CPU and in eval mode. Raises GraphError and TokenGraphError."""
    return trace_answer(model)._replace(tokens=trace_tokens(model))


def trace_answer(model: CNNViTFusion) -> Graphs:
    """Trace the trunk and both forms of the head, without the graph of the transformer's tokens. Raises GraphError."""
    trunk, lifted = trace_trunk(model), lifted_head(model.head)
    with _tracing("the head", GraphError):
        return Graphs(trunk, head_graph(model), None if lifted is None else lifted_graph(model, lifted), None)


def trace_trunk(model: CNNViTFusion) -> ov.Model:
    """Trace the trunk alone. Raises GraphError."""
    with _tracing("the backbones", GraphError):
        return trunk_graph(model)


def trace_tokens(model: CNNViTFusion) -> ov.Model | None:
    """Trace the graph of the transformer's tokens. None if the model has none. Raises TokenGraphError."""
    refuse_masks_of_any_size(model)
    with _tracing("the tokens of the transformer", TokenGraphError):
        tokens = transformer_tokens(model)
        return None if tokens is None else tokens_graph(model, tokens)


def refuse_masks_of_any_size(model: CNNViTFusion) -> None:
    """Raises TokenGraphError for a Swin that makes the masks of its windows anew, of which the graph would be wrong."""
    if any(getattr(block, "dynamic_mask", False) for block in model.modules()):
        raise TokenGraphError("its windows have masks for pictures of any size (dynamic_img_size)")


@contextmanager
def _tracing(part: str, refusal: type[GraphError]) -> Iterator[None]:
    """Turn the errors of tracing a part of the model into a refusal, which names the operators where OpenVINO does."""
    try:
        yield
    except _TRACING_ERRORS as error:
        text = str(error)
        lacking = re.search(r"No conversion rule found for operations: ([^\n]+)", text)
        lines = [line for line in text.splitlines() if line.strip()] or [type(error).__name__]
        reason = f"OpenVINO has no {lacking[1].strip().rstrip('.')}" if lacking else lines[0][:300]
        raise refusal(f"no graph can be made of {part} ({reason})") from error


class Trunk(nn.Module):
    """Computes the model's feature maps of prepared pictures, uint8 `[B, h, w, 3]`."""

    def __init__(self, model: CNNViTFusion) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: UInt8[Tensor, "b h w 3"]) -> tuple[Float[Tensor, "b _c _h _w"], ...]:
        maps = self.model.encode(images.permute(0, 3, 1, 2).float() / 255)
        return tuple(maps.values())


class HeadWithGradients(nn.Module):
    """Computes the head's outputs and gradients from the feature maps and a weighting of the logits.

    Its outputs are the logits, the attention if the model has one, and the gradients of the score (the weighted sum of
    the logits) with respect to each map and the attention.
    """

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


class LiftedHeadOfOne(nn.Module):
    """Computes the integrated gradients and the logits with ablated channels of one picture's maps.

    Its inputs are those of `LiftedHead.path_evidence`, and the channels of `LiftedHead.ablated_logits`. Its last
    outputs are the lifted values of the baseline, from which the others start.
    """

    def __init__(self, head: LiftedHead, branches: Sequence[Branch]) -> None:
        super().__init__()
        self.head, self.branches = head, branches

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        positions, targets, *of_branches = inputs
        count = len(self.branches)
        maps, baseline, start, channels = (
            FeatureMaps(zip(self.branches, of_branches[first : first + count], strict=True))
            for first in range(0, 4 * count, count)
        )
        evidence = self.head.path_evidence(maps, baseline, start, positions, targets)
        logits = self.head.ablated_logits(maps, baseline, start, channels)
        return (*evidence.values(), logits, *self.head.lift(baseline).values())


def trunk_graph(model: CNNViTFusion) -> ov.Model:
    """Trace the trunk for one picture at a time. On a CPU, fixed shapes are faster, and batches are not."""
    height, width = model.image_size
    images = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    trunk = torch.func.functionalize(Trunk(model), remove="mutations")
    # OpenVINO takes a split for one into equal parts.
    sized: dict[Any, Any] = get_decompositions([torch.ops.aten.split])
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # OpenVINO has no fused kernels of torch
        traced = make_fx(trunk, decomposition_table=sized, _allow_non_fake_inputs=True)(images)
    graph = _fold_constants(_convert(traced, [images.shape]))
    return _name_ports(graph, ["images"], list(model.map_shapes))


def head_graph(model: CNNViTFusion) -> ov.Model:
    """Trace the head with its gradients, for any batch size."""
    shapes = [*model.map_shapes.values(), (model.num_classes,)]
    batch_size = next(_lengths_but({side for shape in shapes for side in shape}))
    example = [torch.zeros(batch_size, *shape) for shape in shapes]
    graph = graph_of_any_length(HeadWithGradients(model), example, [[-1, *shape] for shape in shapes])
    attention = ["attention"] if model.fusion == "cross_attention" else []
    gradients = [gradient_output(source) for source in (*model.map_shapes, *attention)]
    return _name_ports(graph, [*model.map_shapes, "target"], ["logits", *attention, *gradients])


def lifted_graph(model: CNNViTFusion, lifted: LiftedHead) -> ov.Model:
    """Trace the lifted head for one picture, and for any numbers of nodes, targets and groups of channels."""
    shapes = model.map_shapes
    # The sides of every input; those with a name can have any length.
    inputs: dict[str, Sequence[int | str]] = {"positions": ("nodes",), "targets": ("targets", model.num_classes)}
    inputs |= {name(branch): (1, *shape) for name in (str, baseline_input) for branch, shape in shapes.items()}
    cells = {branch: shape[1] * shape[2] for branch, shape in shapes.items()}
    inputs |= {start_input(branch): (1, cells[branch], lifted.features[branch]) for branch in shapes}
    inputs |= {channels_input(branch): (f"{branch}_groups", f"{branch}_channels") for branch in shapes}
    fixed = {side for sides in inputs.values() for side in sides if isinstance(side, int)}
    names = sorted({side for sides in inputs.values() for side in sides if isinstance(side, str)})
    lengths = dict(zip(names, _lengths_but(fixed), strict=False))
    example = [
        torch.zeros(
            [side if isinstance(side, int) else lengths[side] for side in sides],
            dtype=torch.int64 if name.endswith("channels") else torch.float32,
        )
        for name, sides in inputs.items()
    ]
    sizes = [[side if isinstance(side, int) else -1 for side in sides] for sides in inputs.values()]
    graph = graph_of_any_length(LiftedHeadOfOne(lifted, list(shapes)), example, sizes)
    return _name_ports(graph, list(inputs), [*map(evidence_output, shapes), "logits", *map(lifted_output, shapes)])


def tokens_graph(model: CNNViTFusion, tokens: TransformerTokens) -> ov.Model:
    """Trace the saliency of the tokens at every stage of the transformer, and the attention of its last block."""
    height, width = model.image_size
    example = (torch.zeros(1, height, width, 3, dtype=torch.uint8), torch.zeros(1, *model.map_shapes[tokens.branch]))
    with sdpa_kernel(SDPBackend.MATH):  # fused kernels have no backward pass that a graph could express
        traced = make_fx(tokens, decomposition_table=_decompositions(), _allow_non_fake_inputs=True)(*example)
    graph = _fold_constants(_convert(traced, [value.shape for value in example]))
    stages = [token_output(stage_height) for stage_height in tokens.heights]
    return _name_ports(graph, ["images", TOKEN_GRADIENT], stages + [TOKEN_ATTENTION] * tokens.has_attention)


def _lengths_but(others: Set[int]) -> Iterator[int]:
    """Lengths for examples of sides that can have any length.

    Tracing treats lengths of 1 and 2 as constants, and equal lengths as the same symbol, so each is unique.
    """
    return (length for length in count(3) if length not in others)


def _decompositions() -> dict[Any, Any]:
    """Return the decompositions of operators that OpenVINO does not have into operators that it has.

    OpenVINO runs networks forward: it has no operator of a backward pass, and no norm that returns its statistics,
    which the backward pass uses. Nor has it the product of a matrix and a vector. So all of them are decomposed that
    torch can decompose. OpenVINO has a rule for the backward pass of a convolution that holds for some strides only.
    """
    aten = torch.ops.aten
    backward = [
        operator
        for operator in decomposition_table
        if "backward" in str(operator) and operator is not aten.convolution_backward.default
    ]
    norms = [aten.native_layer_norm, aten.native_group_norm, aten._fused_rms_norm]
    windows = {
        aten.convolution_backward.default: _convolution_backward,
        aten.avg_pool2d_backward.default: _average_backward,
    }
    return get_decompositions([*backward, *norms, aten.mv]) | windows


def _convolution_backward(
    gradient: Tensor,
    values: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> Any:
    """The gradient with respect to what a convolution was given, as a convolution. Its weights are constant.

    The gradient is spread by the stride, with zeros between, and convolved with the mirrored weights: what OpenVINO
    makes of a transposed convolution with a stride is something else.
    """
    if transposed or any(output_mask[1:]):
        return NotImplemented
    margins: list[int] = []
    for side, step in enumerate(stride, 2):
        gradient = _spread(gradient, side, step)
        reach = dilation[side - 2] * (weight.shape[side] - 1)
        before = reach - padding[side - 2]
        margins = [before, values.shape[side] + reach - gradient.shape[side] - before, *margins]
    if min(margins) < 0:
        return NotImplemented
    mirrored = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)
    padded = functional.pad(gradient, margins)
    convolution = torch.ops.aten.convolution.default
    return convolution(padded, mirrored, None, [1, 1], [0, 0], dilation, False, [0, 0], groups), None, None


def _average_backward(
    gradient: Tensor,
    values: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    counts_padding: bool,
    divisor: int | None,
) -> Any:
    """The gradient with respect to what was averaged: an average is a convolution of every channel."""
    if ceil_mode or divisor is not None:
        return NotImplemented
    channels, (rows, columns) = values.shape[1], kernel
    weight = torch.full((channels, 1, rows, columns), 1 / (rows * columns))
    steps, no_bias = stride or kernel, [True, False, False]
    if any(padding) and not counts_padding:
        inside = functional.avg_pool2d(torch.ones(1, 1, *values.shape[2:]), tuple(kernel), tuple(steps), tuple(padding))
        gradient = gradient / inside
    of_values = _convolution_backward(
        gradient, values, weight, None, steps, padding, [1, 1], False, [0, 0], channels, no_bias
    )
    return of_values if of_values is NotImplemented else of_values[0]


def _spread(values: Tensor, side: int, step: int) -> Tensor:
    """Values with `step - 1` zeros between neighbours along a side."""
    if step == 1:
        return values
    length = values.shape[side]
    zeros = torch.zeros_like(values).unsqueeze(side + 1)
    apart = torch.cat([values.unsqueeze(side + 1), *[zeros] * (step - 1)], dim=side + 1).flatten(side, side + 1)
    return apart.narrow(side, 0, (length - 1) * step + 1)


def graph_of_any_length(module: nn.Module, example: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> ov.Model:
    """Trace a module for inputs of these sizes, where -1 stands for any length.

    `example` are inputs of the module; sides of any length that are equal there are always equal. Raises ValueError if
    the module computes something else for other lengths.
    """
    shapes = ShapeEnv()
    mode = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
    kinds = [[DimDynamic.DUCK if side == -1 else DimDynamic.STATIC for side in size] for size in sizes]
    inputs = [
        mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=of_tensor))
        for tensor, of_tensor in zip(example, kinds, strict=True)
    ]
    with mode:
        traced = make_fx(module, decomposition_table=_decompositions(), _allow_non_fake_inputs=True)(*inputs)
    if shapes.replacements:
        raise ValueError("what it computes depends on the lengths of its inputs")
    _share_constants(traced)
    graph = _convert(traced, sizes)
    for parameter, shape in zip(list(graph.inputs), sizes, strict=True):
        parameter.get_node().set_partial_shape(ov.PartialShape(shape))
    graph.validate_nodes_and_infer_types()
    return _fold_constants(graph)


def _share_constants(traced: torch.fx.GraphModule) -> None:
    """Let all uses of a tensor be of one constant: `make_fx` makes one for each."""
    first: dict[tuple[object, ...], torch.fx.Node] = {}
    for node in traced.graph.find_nodes(op="get_attr"):
        tensor = getattr(traced, str(node.target))
        key = tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype
        if (shared := first.setdefault(key, node)) is not node:
            node.replace_all_uses_with(shared)
            traced.graph.erase_node(node)
    traced.recompile()


def _convert(traced: torch.fx.GraphModule, sizes: Sequence[Sequence[int]]) -> ov.Model:
    """Convert what `make_fx` traced to a graph for inputs of these sizes, whose constants are the model's weights.

    `openvino.convert_model` would also fold batch norms into the convolutions before them. fp16 cannot represent the
    products exactly: the demo's logits were 2e-2 off. Folding happens at compile time instead, in float32. It would
    also report the conversion to an analytics host where OpenVINO was imported before `app`.
    """
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchFXPythonDecoder(traced, None, traced, input_shapes=[list(size) for size in sizes])
    return frontend.convert(frontend.load(decoder))


def _fold_constants(graph: ov.Model) -> ov.Model:
    """Compute what depends on constants alone. Returns the graph, which is changed.

    Of a graph with a backward pass that has not been folded, OpenVINO compiles something else: the gradients of the
    demo's head were off by their own size, and the saliency of its tokens by several percent.
    """
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(graph)
    return graph


def _name_ports(graph: ov.Model, inputs: list[str], outputs: list[str]) -> ov.Model:
    """Name the graph's ports, and remove all other names, which could replace a port's when two values are merged."""
    for operation in graph.get_ops():
        for output in operation.outputs():
            output.get_tensor().set_names(set())
    for ports, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    return graph
