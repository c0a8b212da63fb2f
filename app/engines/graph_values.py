"""Checks the inputs of operations that OpenVINO would follow beyond a tensor, or that would stop the process.

Pads that add much before a tensor and take as much away behind it leave its shape as it is, and OpenVINO copies from
where they point. An operation that scatters writes where its indices say. A step of -2^31 leaves a slice unwritten. A
division of integers by -1 or 0 stops the process, even while a graph is read. So these numbers must follow from
constants of the graph, and lie within bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from app.engines.graph_operations import MAX_SPAN

_MAX_STEP = 1 << 16
# From an operation to the inputs that are checked, and to what their values must be.
_BOUNDED = {"Pad": ((1, 0, MAX_SPAN), (2, 0, MAX_SPAN)), "Slice": ((3, 1, _MAX_STEP),)}
# Operations whose output has no other values than their first input.
_REARRANGING = {"Broadcast", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_INTEGERS: dict[str, np.dtype[np.int32] | np.dtype[np.int64]] = {"i32": np.dtype("<i4"), "i64": np.dtype("<i8")}
_FLOATS = {"f16", "f32", "f64", "bf16"}
# Operations whose output is of a type of its own, other than a float.
_OWN_TYPE = {
    *("Equal", "Greater", "GreaterEqual", "Less", "LessEqual", "NotEqual", "LogicalAnd", "LogicalNot", "LogicalOr"),
    *("Range", "ShapeOf"),
}
_INT32 = np.iinfo(np.int32)
_MAX_DEPTH = 16  # of the operations between constants and what follows from them
Port = tuple[str, str]
Bounds = tuple[int, int]


@dataclass
class Layer:
    """A layer of a graph: its operation, the attributes of that if it has any, and the ids of its ports."""

    operation: str
    attributes: Mapping[str, str] | None = None
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def attribute(self, name: str) -> str:
        """The value of an attribute. Empty if there is none."""
        return (self.attributes or {}).get(name, "")


class Values:
    """What is known of the values in a graph without computing them.

    `sources` are the output ports that are connected to the input ports, both as ids of a layer and of its port. The
    constants lie within `weights`.
    """

    def __init__(self, layers: Mapping[str, Layer], sources: Mapping[Port, Port], weights: bytes) -> None:
        self._layers, self._sources, self._weights = layers, sources, weights
        self._bounds: dict[str, Bounds | None] = {}
        self._float: dict[Port, bool] = {}

    def check(self) -> None:
        """Check the inputs of every operation. Raises ValueError."""
        for name, layer in self._layers.items():
            for position, least, most in _BOUNDED.get(layer.operation, ()):
                self._check_input(name, position, least, most)
            if layer.operation == "ScatterNDUpdate":
                self._check_scatter(name)
            if layer.operation == "Divide" and not self._is_float(name):
                self._check_input(name, 1, 1, _INT32.max)

    def _check_input(self, name: str, position: int, least: int, most: int) -> None:
        operation, source = self._layers[name].operation, self._source(name, position)
        if operation == "Pad" and source and self._layers.get(source[0], Layer("")).operation == "Const":
            least = -MAX_SPAN  # such pads take away, as the gradient of a Pad does: see graph_shapes
        bounds = self._bounds_of(source[0]) if source else None
        if bounds is None:
            raise ValueError(f"input {position} of an operation {operation} does not follow from constants")
        if not least <= bounds[0] <= bounds[1] <= most:
            raise ValueError(
                f"input {position} of an operation {operation} has values from {bounds[0]} to {bounds[1]}, "
                f"but they must lie between {least} and {most}"
            )

    def _check_scatter(self, name: str) -> None:
        """Check that the places to write to are constants within a tensor whose shape is that of a constant."""
        target, indices = (self._constant(self._source(name, position)) for position in (0, 1))
        if target is None or indices is None or (places := self._integers(indices)) is None:
            raise ValueError("an operation ScatterNDUpdate does not write to constant places of a constant")
        shape, (*_, depth) = _shape(target), _shape(indices) or (0,)
        if not 0 < depth <= len(shape) or not _lie_within(places.reshape(-1, depth), shape[:depth]):
            raise ValueError(f"an operation ScatterNDUpdate writes beyond a tensor with the shape {list(shape)}")

    def _constant(self, port: Port | None) -> Layer | None:
        """The constant at an output port, as it is or converted to another type."""
        layer = self._layers.get(port[0]) if port else None
        if port and layer and layer.operation == "Convert":
            source = self._source(port[0], 0)
            layer = self._layers.get(source[0]) if source else None
        return layer if layer and layer.operation == "Const" else None

    def _source(self, name: str, position: int) -> Port | None:
        """The output port that is connected to an input of a layer."""
        inputs = self._layers[name].inputs if name in self._layers else []
        return self._sources.get((name, inputs[position])) if position < len(inputs) else None

    def _bounds_of(self, name: str, depth: int = 0) -> Bounds | None:
        """The lowest and the highest integer that a layer can give. None if they do not follow from constants."""
        if name not in self._bounds:
            self._bounds[name] = None  # as long as they are being looked for: a graph could go in a circle
            self._bounds[name] = self._find_bounds(name, depth)
        return self._bounds[name]

    def _find_bounds(self, name: str, depth: int) -> Bounds | None:
        layer = self._layers.get(name)
        if layer is None or depth > _MAX_DEPTH:
            return None
        if layer.operation == "Const":
            return self._constant_bounds(layer)
        if layer.operation not in (*_REARRANGING, "Concat", "Convert"):
            return None
        sources = [self._source(name, i) for i in range(len(layer.inputs) if layer.operation == "Concat" else 1)]
        bounds = [self._bounds_of(source[0], depth + 1) if source else None for source in sources]
        known = [each for each in bounds if each is not None]
        if not known or len(known) < len(bounds):
            return None
        least, most = min(low for low, _ in known), max(high for _, high in known)
        if layer.operation == "Convert" and (
            layer.attribute("destination_type") not in _INTEGERS or least < _INT32.min or most > _INT32.max
        ):
            return None
        return least, most

    def _constant_bounds(self, layer: Layer) -> Bounds | None:
        numbers = self._integers(layer)
        return None if numbers is None else (int(numbers.min()), int(numbers.max()))

    def _integers(self, constant: Layer) -> np.ndarray | None:
        """The numbers of a constant, flat. None if they are none or no integers."""
        kind = _INTEGERS.get(constant.attribute("element_type"))
        start, size = int(constant.attribute("offset")), int(constant.attribute("size"))
        if kind is None or size < kind.itemsize:
            return None
        numbers: np.ndarray = np.frombuffer(self._weights, kind, size // kind.itemsize, start)
        return numbers

    def _is_float(self, name: str) -> bool:
        """Whether a layer computes with floats. False if that cannot be told."""
        port, path = (name, ""), list[Port]()
        while port not in self._float:
            self._float[port] = False  # until the end of the path is found: a graph could go in a circle
            path.append(port)
            layer = self._layers.get(port[0])
            if layer is None:
                break
            kind = layer.attribute("destination_type" if layer.operation == "Convert" else "element_type")
            if layer.operation in ("Const", "Convert", "Parameter"):
                self._float[port] = kind in _FLOATS
                break
            if layer.operation in _OWN_TYPE or (layer.operation == "MaxPool" and layer.outputs[:1] != [port[1]]):
                break
            source = self._source(port[0], 1 if layer.operation in ("ConvertLike", "Select") else 0)
            if source is None:
                break
            port = source
        answer = self._float[port]
        self._float |= dict.fromkeys(path, answer)
        return answer


def _shape(constant: Layer) -> tuple[int, ...]:
    shape = constant.attribute("shape")
    return tuple(int(side) for side in shape.split(",")) if shape else ()


def _lie_within(places: np.ndarray, shape: tuple[int, ...]) -> bool:
    return bool(((places >= 0) & (places < np.array(shape))).all())
