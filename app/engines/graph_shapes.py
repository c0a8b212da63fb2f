"""Checks the shapes in a graph that OpenVINO has read, which only OpenVINO can tell."""

from __future__ import annotations

from app.engines.runtime import ov

MAX_ELEMENTS = 1 << 30  # of a tensor: 64 channels at the largest size that a manifest allows


def check_shapes(graph: ov.Model) -> None:
    """Check that no tensor is larger than a model of this project needs, and that no Pad takes more than there is.

    Raises ValueError.
    """
    for operation in graph.get_ops():
        kind = operation.get_type_name()
        for output in operation.outputs():
            elements = 1
            for side in output.partial_shape if output.partial_shape.rank.is_static else ():
                elements *= side.get_length() if side.is_static else 1
            if elements > MAX_ELEMENTS:
                raise ValueError(f"an operation {kind} gives {elements:,} numbers, more than {MAX_ELEMENTS:,}")
        if kind == "Pad":
            _check_pads(operation)


def _check_pads(operation: ov.Node) -> None:
    """Check the pads that are below 0. Those that are no constants have been found to be 0 or more."""
    shape, nodes = operation.input_value(0).partial_shape, [operation.input_value(i).get_node() for i in (1, 2)]
    begins, ends = (node.data.tolist() if node.get_type_name() == "Constant" else [0] * len(shape) for node in nodes)
    for side, begin, end in zip(shape, begins, ends, strict=True):
        taken = max(0, -begin) + max(0, -end)
        if taken > 0 and (side.is_dynamic or taken >= side.get_length()):
            raise ValueError(f"an operation Pad takes {taken} from a side of {side}")
