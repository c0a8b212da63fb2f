"""The operations that a graph may have, and the values of their attributes.

OpenVINO has operations that read and write memory where their input says, without a check: GatherND and the Scatter
family among them, of which one may be used where its indices can be checked. Others hold state, name files or run
graphs of their own. So a graph may have the operations that exports of this project write, and their near relatives,
and no others. Numbers that become sizes of windows or distances in memory have bounds here too. The inputs of
operations are checked in `graph_values`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_SPAN = 4096  # px: the largest side that a manifest allows

# From the version of an operation to the types that have it, by the names that OpenVINO writes.
_BY_VERSION = {
    "opset1": """
        Abs Add AvgPool Ceiling Clamp Concat Const Convert ConvertLike Convolution Cos DepthToSpace Divide Elu Equal Erf
        Exp Floor Greater GreaterEqual GroupConvolution HardSigmoid Less LessEqual Log LogicalAnd LogicalNot LogicalOr
        MatMul Maximum Minimum Multiply Negative NormalizeL2 NotEqual PReLU Parameter Power Range ReLU ReduceMax
        ReduceMean ReduceMin ReduceProd ReduceSum Reshape Result Select Selu Sigmoid Sign Sin SpaceToDepth Split Sqrt
        SquaredDifference Squeeze Subtract Tanh Tile Transpose Unsqueeze VariadicSplit
    """,
    "opset3": "Broadcast CumSum ShapeOf",
    "opset4": "HSwish Mish Range ReduceL1 ReduceL2 ScatterNDUpdate SoftPlus Swish",
    "opset5": "BatchNormInference HSigmoid LogSoftmax",
    "opset6": "MVN",
    "opset7": "Gelu Roll",
    "opset8": "Gather MaxPool Slice SoftMax",
    "opset9": "SoftSign",
    "opset11": "Interpolate",
    "opset12": "GroupNormalization Pad",
    "opset13": "BitwiseAnd BitwiseNot BitwiseOr ScaledDotProductAttention",
    "opset14": "AvgPool MaxPool",
    "opset15": "Squeeze",
}
OPERATIONS = {(operation, version) for version, types in _BY_VERSION.items() for operation in types.split()}

_ZERO_TO_MAX, _ONE_TO_MAX = (0, MAX_SPAN), (1, MAX_SPAN)
# From an attribute to the bounds of each of its integers.
_SPANS = {
    **dict.fromkeys(("pads_begin", "pads_end"), _ZERO_TO_MAX),
    **dict.fromkeys(("strides", "dilations", "kernel", "num_splits", "num_groups", "block_size"), _ONE_TO_MAX),
    "axis": (-16, 16),
    "batch_dims": (-16, 16),
}
_NUMBERS = {"alpha", "epsilon", "eps", "min", "max", "cube_coeff"}
_WORDS = {
    *("allow_axis_skip", "antialias", "approximation_mode", "auto_broadcast", "auto_pad", "causal", "eps_mode"),
    *("coordinate_transformation_mode", "destination_type", "exclude-pad", "exclusive", "index_element_type"),
    *("keep_dims", "m_pythondiv", "mode", "nearest_mode", "normalize_variance", "output_type", "pad_mode", "reverse"),
    *("rounding_type", "shape_calculation_mode", "special_zero", "transpose_a", "transpose_b"),
}
_INTEGERS = re.compile(r"-?[0-9]{1,9}(, ?-?[0-9]{1,9}){0,15}")
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?(e[+-]?[0-9]{1,3})?")
_WORD = re.compile(r"\w{1,40}")
ELEMENT_TYPE = re.compile(r"(?:f|bf|i|u)([0-9]{1,2})|boolean")
_PATTERNS = {"shape": re.compile(r"[0-9?.,\-]{0,200}"), "element_type": ELEMENT_TYPE}
_PATTERNS |= dict.fromkeys(_WORDS, _WORD) | dict.fromkeys(_NUMBERS, _NUMBER)


def check_attributes(operation: str, attributes: Mapping[str, str]) -> None:
    """Check the attributes of an operation other than a constant. Raises ValueError."""
    for name, value in attributes.items():
        if not _is_allowed(name, value):
            raise ValueError(f"{operation} has {name[:200]}={value[:200]!r}, which no graph of a bundle has")


def _is_allowed(name: str, value: str) -> bool:
    if name in _SPANS:
        least, most = _SPANS[name]
        return bool(_INTEGERS.fullmatch(value)) and all(least <= int(each) <= most for each in value.split(","))
    return name in _PATTERNS and _PATTERNS[name].fullmatch(value) is not None
