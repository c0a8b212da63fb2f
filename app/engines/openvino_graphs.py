"""Reads a bundle's graph files, checks them against the manifest, and derives the graphs to compile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from app.bundles.graph_names import (
    LIFTED,
    TOKEN_ATTENTION,
    TOKEN_GRADIENT,
    TOKENS,
    baseline_input,
    channels_input,
    evidence_output,
    gradient_output,
    lifted_output,
    start_input,
    token_output,
)
from app.bundles.manifest import Manifest
from app.bundles.reader import Bundle
from app.engines import graph_xml
from app.engines.graph_shapes import check_shapes
from app.engines.runtime import ops, ov
from app.errors import BundleError, EngineError
from app.models.feature_maps import BRANCHES, Branch

# One ov.Core for the whole process. OpenVINO's CPU plugin installs an alternative signal stack with a Core and frees it
# with that Core. If several Cores are destroyed in another order than they were created, a freed stack stays in use,
# and the next signal crashes the process.
CORE = ov.Core()
# For some inputs, the lengths of the sides that can have any length.
Sizes = Mapping[str, tuple[int, ...]]
# The files of each graph: its structure and its weights.
FILES = {
    "trunk": ("trunk.xml", "trunk.bin"),
    "explainer": ("head.xml", "head.bin"),
    "classifier": ("head.xml", "head.bin"),
    "lift": LIFTED,
    "integrated": LIFTED,
    "ablated": LIFTED,
    "tokens": (TOKENS, "trunk.bin"),
}


def graph_of(bundle: Bundle, files: tuple[str, str]) -> ov.Model:
    """The graph in two files of a bundle, its structure and its weights.

    Raises BundleError, and EngineError as `read_graph` does.
    """
    structure, weights = files
    try:
        return read_graph(bundle.graph(structure), bundle.graph(weights))
    except (RuntimeError, ValueError) as error:
        reason = f"is not a graph that OpenVINO {ov.get_version()} reads safely ({error}): compile it again"
        raise BundleError(structure, reason) from error


def derived_graph(manifest: Manifest, name: str, graph: ov.Model) -> ov.Model:
    """One of the graphs named in `FILES`, made from the one in its files, which is changed.

    Two are derived from the head, three from the lifted head. Raises BundleError if the graph does not match the
    manifest.
    """
    structure, _ = FILES[name]
    inputs, outputs = _ports(manifest, name, graph)
    input_shapes = {port.any_name: port.partial_shape for port in graph.inputs}
    if input_shapes != {port: ov.PartialShape(shape) for port, shape in inputs.items()}:
        described = {port: str(shape) for port, shape in input_shapes.items()}
        raise BundleError(structure, f"takes {described}, but the manifest needs {inputs}: compile it again")
    actual = {port.any_name: port for port in graph.outputs}
    if missing := sorted(outputs.keys() - actual.keys()):
        raise BundleError(structure, f"has no output {', '.join(missing)}: compile it again")
    for output, needed in outputs.items():
        if not _fits(actual[output], needed):
            given = f"{actual[output].get_element_type().to_string()}{actual[output].partial_shape}"
            raise BundleError(
                structure, f"gives {output} as {given}, but the manifest needs {needed}: compile it again"
            )
    return _DERIVED.get(name, lambda graph: graph)(graph)


def read_graph(structure: bytes, weights: bytes) -> ov.Model:
    """The float32 graph of two files: its `structure` as XML, which may be gzipped, and its `weights`.

    Raises ValueError if the structure is not what a bundle may have, RuntimeError as OpenVINO does, and EngineError if
    OpenVINO would not use `weights`.
    """
    plain = graph_xml.unpack(structure) if structure.startswith(b"\x1f\x8b") else structure
    graph_xml.check(plain, weights)
    refuse_other_weights()
    graph = CORE.read_model(plain, weights)
    check_shapes(graph)
    # The compiler would keep fp16 weights as they are, which makes the matrix products a tenth slower.
    for convert in graph.get_ops():
        if convert.get_type_name() == "Convert" and convert.input_value(0).get_node().get_type_name() == "Constant":
            constant = ops.constant(convert.input_value(0).get_node().data.astype(np.float32))
            for user in convert.output(0).get_target_inputs():
                user.replace_source_output(constant.output(0))
    return graph


def refuse_other_weights() -> None:
    """Raises EngineError if OpenVINO would use a file in the working directory as a graph's weights.

    It looks for weights beside the XML even if it is given both as bytes, and even for a graph that is compiled.
    """
    if (other := Path(".bin")).exists() and not other.is_dir():
        raise EngineError(f"OpenVINO would use the file {other.absolute()} as weights: remove it, or start elsewhere.")


def with_argmax_target(head: ov.Model) -> ov.Model:
    """Extend the head so that it can choose its own target: the class with the highest `logits + bias`.

    Adds the inputs `bias` `[K]` and `choose` `[1]`. If `choose` is 1, the one-hot vector of that class is added to
    `target`; if it is 0, `target` is used as it is. Changes and returns `head`.
    """
    target = head.input("target").get_node()
    users = target.output(0).get_target_inputs()
    classes = target.output(0).partial_shape[1].get_length()
    bias, choose = ops.parameter([classes], np.float32), ops.parameter([1], np.float32)
    logits = head.output("logits").get_node().input_value(0)
    highest = ops.topk(ops.add(logits, bias), 1, axis=1, mode="max", sort="none").output(1)
    index = ops.squeeze(highest, ops.constant([1]))
    chosen = ops.one_hot(index, ops.constant(classes), ops.constant(np.float32(1)), ops.constant(np.float32(0)), axis=1)
    weighting = ops.add(target, ops.multiply(chosen, choose))
    for user in users:
        user.replace_source_output(weighting.output(0))
    head.add_parameters([bias, choose])
    for parameter, name in ((bias, "bias"), (choose, "choose")):
        parameter.output(0).get_tensor().set_names({name})
    head.validate_nodes_and_infer_types()
    return head


def logits_only(head: ov.Model) -> ov.Model:
    """The part of a head, or of a lifted head, that computes its logits."""
    return _part(head, ["logits"])


def integrated_only(lifted: ov.Model) -> ov.Model:
    """The part of a lifted head that computes the integrated gradients."""
    return _part(lifted, [evidence_output(branch) for branch in branches_of(lifted)])


def lift_only(lifted: ov.Model) -> ov.Model:
    """The part of a lifted head that computes the lifted values of a baseline."""
    return _part(lifted, [lifted_output(branch) for branch in branches_of(lifted)])


def branches_of(lifted: ov.Model) -> list[Branch]:
    """The branches of a lifted head."""
    names = {port.any_name for port in lifted.outputs}
    return [branch for branch in BRANCHES if lifted_output(branch) in names]


def with_sizes(graph: ov.Model | None, sizes: Sizes | None) -> ov.Model | None:
    """The graph for inputs of fixed sizes. It is changed and returned.

    `sizes` are, for some inputs, the lengths of the sides that can have any length; those of all others become 1. If it
    is None, the graph stays as it is.
    """
    if graph is None or sizes is None:
        return graph
    shapes = {}
    for port in graph.inputs:
        lengths = iter(sizes.get(port.any_name, ()))
        shapes[port.any_name] = ov.PartialShape(
            [next(lengths, 1) if side.is_dynamic else side.get_length() for side in port.partial_shape]
        )
    graph.reshape(shapes)
    return graph


def _part(graph: ov.Model, outputs: Sequence[str]) -> ov.Model:
    """A copy of a graph with some of its outputs, and the inputs that these depend on."""
    part = graph.clone()
    ports = [part.output(name) for name in outputs]
    above, needed = [port.get_node() for port in ports], dict[str, ov.Node]()
    while above:
        node = above.pop()
        if node.get_friendly_name() not in needed:
            needed[node.get_friendly_name()] = node
            above += [port.get_source_output().get_node() for port in node.inputs()]
    return ov.Model(
        ports, [parameter for parameter in part.get_parameters() if parameter.get_friendly_name() in needed]
    )


_DERIVED = {
    "explainer": with_argmax_target,
    "classifier": logits_only,
    "lift": lift_only,
    "integrated": integrated_only,
    "ablated": logits_only,
}


def last_line(error: Exception) -> str:
    """What an error of OpenVINO says; before it come the places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _fits(output: ov.Output, shape: list[int] | None) -> bool:
    is_float = output.get_element_type() == ov.Type.f32
    return is_float and (shape is None or output.partial_shape.compatible(ov.PartialShape(shape)))


def _ports(manifest: Manifest, name: str, graph: ov.Model) -> tuple[dict[str, list[int]], dict[str, list[int] | None]]:
    """The inputs and the outputs that a graph must have, with their shapes. None stands for any shape."""
    image = [1, manifest.input.height_px, manifest.input.width_px, 3]
    shapes = manifest.map_shapes
    if name == "trunk":
        return {"images": image}, {branch: [1, *shape] for branch, shape in shapes.items()}
    if name == "tokens":
        outputs = [token_output(height) for height in manifest.token_stages]
        inputs = {"images": image, TOKEN_GRADIENT: [1, *manifest.transformer_shape]}
        return inputs, dict.fromkeys(outputs + [TOKEN_ATTENTION] * manifest.token_attention)
    if FILES[name] == LIFTED:
        return _lifted_ports(manifest, graph)
    maps, scores = {str(branch): [-1, *shape] for branch, shape in shapes.items()}, [-1, len(manifest.classes)]
    gradients = {gradient_output(branch): [-1, *shape] for branch, shape in shapes.items()}
    return maps | {"target": scores}, {"logits": scores, **gradients}


def _lifted_ports(manifest: Manifest, graph: ov.Model) -> tuple[dict[str, list[int]], dict[str, list[int] | None]]:
    classes, shapes = len(manifest.classes), manifest.map_shapes
    inputs = {name(branch): [1, *shape] for name in (str, baseline_input) for branch, shape in shapes.items()}
    # How many values a lifted cell has is the head's own affair: what goes in there has come out of the same graph.
    features = {port.any_name: port.partial_shape[2] for port in graph.outputs if port.partial_shape.rank == 3}
    for branch, shape in shapes.items():
        if not (size := features.get(lifted_output(branch), ov.Dimension())).is_dynamic:
            inputs[start_input(branch)] = [1, shape[1] * shape[2], size.get_length()]
    inputs |= {"positions": [-1], "targets": [-1, classes]}
    inputs |= {channels_input(branch): [-1, -1] for branch in shapes}
    evidence = {evidence_output(branch): [-1, -1, *shape[1:]] for branch, shape in shapes.items()}
    return inputs, {"logits": [-1, classes], **evidence}
