"""Graphs that are well-formed, but whose operations would read, write or compute what they must not: refused."""

from __future__ import annotations

import importlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from app.__main__ import main
from app.bundles.reader import read_bundle
from app.engines import graph_xml
from app.engines.graph_operations import OPERATIONS
from app.engines.openvino_graphs import CORE, read_graph
from app.engines.runtime import ops, ov
from tests.support.bundles import seal

Node = Any
INT32_MIN, INT64_MIN, INT64_MAX = -(1 << 31), -(1 << 63), (1 << 63) - 1


def integers(*values: int, kind: type = np.int64) -> Node:
    return ops.constant(np.array(values, kind))


def files(make: Callable[[Node], Node], shape: tuple[int, ...] = (4, 8)) -> tuple[bytes, bytes]:
    """The two files of a graph that does one thing with its input."""
    parameter = ops.parameter(list(shape), np.float32)
    made = make(parameter)
    graph = ov.Model([made if isinstance(made, ov.Output) else made.output(0)], [parameter])
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "graph.xml"
        ov.serialize(graph, path)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def pad(begin: int, end: int, mode: str = "constant") -> Callable[[Node], Node]:
    return lambda x: ops.pad(x, integers(0, begin), integers(0, end), mode, ops.constant(np.float32(0)))


def hidden_pad(begin: int, end: int) -> Callable[[Node], Node]:
    """A Pad whose numbers are put together, as an export of a backbone does."""

    def joined(value: int) -> Node:
        zero = ops.convert(ops.broadcast(integers(0, kind=np.int32), integers(1)), "i64")
        return ops.concat([zero, integers(value)], 0)

    return lambda x: ops.pad(x, joined(begin), joined(end), "constant", ops.constant(np.float32(0)))


def sliced(begin: int, end: int, step: int) -> Callable[[Node], Node]:
    return lambda x: ops.slice(x, integers(begin), integers(end), integers(step), integers(1))


def computed(x: Node) -> Node:
    """Integers that follow from the input."""
    return ops.convert(ops.reduce_sum(x, integers(0, 1), keep_dims=False), "i64")


def divided(divisor: Node) -> Callable[[Node], Node]:
    dividend = ops.constant(np.array([1 << 31], np.uint32).view(np.int32))
    return lambda x: ops.add(x, ops.convert(ops.divide(dividend, divisor), "f32"))


def scattered(places: Node) -> Callable[[Node], Node]:
    zeros, updates = ops.constant(np.zeros((4, 8), np.float32)), ops.constant(np.ones((1, 8), np.float32))
    return lambda x: ops.add(x, ops.scatter_nd_update(zeros, places, updates))


def convolved(**changes: list[int]) -> Callable[[Node], Node]:
    window = {"strides": [1, 1], "pads_begin": [1, 1], "pads_end": [1, 1], "dilations": [1, 1]} | changes
    kernel = ops.constant(np.ones((1, 1, 3, 3), np.float32))
    return lambda x: ops.convolution(ops.unsqueeze(x, integers(0, 1)), kernel, **window)


# What a graph does, and what the refusal says.
HOSTILE: dict[str, tuple[Callable[[Node], Node], str]] = {
    "a gather beyond": (lambda x: ops.gather_nd(x, integers(1 << 20, 5)), "operation GatherND"),
    "a gather of elements": (lambda x: ops.gather_elements(x, ops.constant(np.full((4, 8), 99)), 0), "GatherElements"),
    "a reversal": (lambda x: ops.reverse_sequence(x, integers(99, 99, 99, 99), 0, 1), "ReverseSequence"),
    "a bag": (lambda x: ops.embedding_bag_packed_sum(x, ops.constant(np.full((1, 2), 99))), "EmbeddingBagPackedSum"),
    "an update by rows": (
        lambda x: ops.scatter_update(x, integers(99), ops.constant(np.ones((1, 8), np.float32)), integers(0)),
        "ScatterUpdate",
    ),
    "an update by elements": (
        lambda x: ops.scatter_elements_update(
            x, ops.constant(np.full((4, 8), 99)), ops.constant(np.ones((4, 8), np.float32)), integers(0)
        ),
        "ScatterElementsUpdate",
    ),
    "an update beyond": (scattered(ops.constant(np.array([[4]]))), "writes beyond a tensor"),
    "an update before": (scattered(ops.constant(np.array([[-1]]))), "writes beyond a tensor"),
    "an update of the input": (
        lambda x: ops.scatter_nd_update(x, ops.constant(np.array([[0]])), ops.constant(np.ones((1, 8), np.float32))),
        "constant places of a constant",
    ),
    "an update at computed places": (
        lambda x: scattered(ops.reshape(computed(x), integers(1, 1), False))(x),
        "constant places of a constant",
    ),
    "a pad forth and back": (pad(65_536, -65_536), "operation Pad has values from 0 to 65536"),
    "a pad back and forth": (pad(-(1 << 20), 1 << 20), "operation Pad has values from -1048576 to 0"),
    "a pad that takes more than there is": (pad(-100, 100), "Pad takes 100 from a side of 8"),
    "a pad that takes all": (pad(-4, -4), "Pad"),
    "a pad of edges": (pad(-1000, 1000, "edge"), "Pad takes 1000 from a side of 8"),
    "a pad of computed size": (
        lambda x: ops.pad(
            x, ops.reshape(computed(x), integers(1), False), integers(0), "constant", ops.constant(np.float32(0))
        ),
        "does not follow from constants",
    ),
    "a hidden pad": (hidden_pad(65_536, -65_536), "operation Pad has values from 0 to 65536"),
    "a hidden pad that takes": (hidden_pad(-5, 5), "operation Pad has values from -5 to 0"),
    "a large step back": (sliced(1000, -1000, INT32_MIN), "operation Slice has values from -2147483648"),
    "the largest step back": (sliced(INT64_MAX, INT64_MIN, INT64_MIN), "operation Slice has values from"),
    "a large step": (sliced(5, INT64_MAX, INT64_MAX), "operation Slice has values from"),
    "a computed step": (
        lambda x: ops.slice(x, integers(0), integers(9), ops.reshape(computed(x), integers(1), False)),
        "does not follow from constants",
    ),
    "a division that overflows": (divided(integers(-1, kind=np.int32)), "operation Divide has values from -1"),
    "a division by zero": (divided(integers(0, kind=np.int32)), "operation Divide has values from 0"),
    "a division by what may be zero": (
        lambda x: ops.convert(ops.divide(computed(x), computed(x)), "f32"),
        "does not follow from constants",
    ),
    "a division behind a detour": (
        lambda x: divided(ops.reshape(ops.convert(integers(-1), "i32"), integers(1), False))(x),
        "operation Divide has values from -1",
    ),
    "a remainder": (lambda x: ops.floor_mod(x, ops.constant(np.float32(2))), "operation FloorMod"),
    "negative pads of a window": (convolved(pads_begin=[-1, -1], pads_end=[3, 3]), "Convolution has pads_begin"),
    "a far window": (
        convolved(dilations=[1 << 20] * 2, pads_begin=[1 << 20] * 2, pads_end=[1 << 20] * 2),
        "Convolution has",
    ),
    "a huge stride": (convolved(strides=[1 << 40, 1 << 40]), "Convolution has strides"),
    "a huge tensor": (lambda x: ops.tile(x, integers(1 << 20, 1 << 20)), "more than 1,073,741,824"),
    "memory between pictures": (
        lambda x: ops.add(x, ops.read_value(ops.constant(np.zeros((4, 8), np.float32)), "kept")),
        "operation ReadValue",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_an_operation_that_could_leave_its_tensors_is_refused(case: str) -> None:
    make, reason = HOSTILE[case]
    structure, weights = files(make)
    with pytest.raises(ValueError, match=re.escape(reason)):
        read_graph(structure, weights)


HARMLESS: dict[str, Callable[[Node], Node]] = {
    "a pad": pad(3, 4),
    "a pad that takes": pad(-3, -4),
    "a hidden pad": hidden_pad(0, 5),
    "a slice": sliced(1, INT64_MAX, 2),
    "a division of integers": divided(integers(3, kind=np.int32)),
    "a division of floats": lambda x: ops.divide(x, ops.sqrt(ops.relu(x))),
    "an update": scattered(ops.constant(np.array([[3]]))),
    "a window": convolved(),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_exports_write_is_read_and_answers(case: str) -> None:
    compiled = CORE.compile_model(read_graph(*files(HARMLESS[case])), "CPU", {"INFERENCE_NUM_THREADS": 1})
    picture = np.arange(32, dtype=np.float32).reshape(4, 8) + 1
    assert np.isfinite(compiled([picture])[0]).all()


def operations_of_openvino() -> set[tuple[str, str]]:
    """Every operation of every set that OpenVINO has, with the name of the set."""
    names = set()
    for number in range(1, 100):
        try:
            opset = importlib.import_module(f"openvino.opset{number}")
        except ModuleNotFoundError:
            break
        functions = [name for name in vars(opset) if not name.startswith("_")]
        names |= {("".join(part.capitalize() for part in name.split("_")), f"opset{number}") for name in functions}
    return names


def test_an_operation_is_refused_unless_exports_need_it() -> None:
    """Of operations that a later OpenVINO adds, no more is known than that no export has them."""
    xml, weights = files(ops.relu)
    tried = operations_of_openvino() | {("Sigmoid", "opset1000"), ("GatherND", "opset8"), ("relu", "opset1")}
    refused = 0
    for operation, version in sorted(tried):
        renamed = xml.replace(b'type="ReLU" version="opset1"', f'type="{operation}" version="{version}"'.encode())
        if (operation, version) not in OPERATIONS:
            refused += 1
            with pytest.raises(ValueError, match=f"operation {operation} of {version}"):
                graph_xml.check(renamed, weights)
    assert refused > 1000
    dangerous = re.compile("Scatter|Gather.|Embedding|ROI|Reverse|Loop|If$|Iterator|Assign|ReadValue|Mod|Suppression")
    assert [name for name, _ in OPERATIONS if dangerous.search(name)] == ["ScatterNDUpdate"]


AMBIGUOUS = {
    "two layers with one id": ('<layer id="1" ', '<layer id="0" ', "two layers have the id 0"),
    "another spelling of an id": ('<layer id="1" ', '<layer id="01" ', "id='01' where a number belongs"),
    "two parameters": ("<data ", '<data axis="1"/><data ', "its parameters twice"),
    "two edges to a port": ("</edges>", None, "two edges lead to port"),
    "a constant without content": (r"(type=\"Const\"[^>]*>\s*)<data [^>]*>", r"\1", "a constant without content"),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_a_graph_that_can_be_read_in_two_ways_is_refused(case: str) -> None:
    """What is checked must be what OpenVINO reads."""
    pattern, text, reason = AMBIGUOUS[case]
    structure, weights = files(pad(1, 1))
    xml = structure.decode()
    if text is None:
        text = re.search("<edge [^>]*>", xml)[0] + pattern  # type: ignore[index]
    changed, count = re.subn(pattern, text, xml, count=1)
    assert count == 1
    with pytest.raises(ValueError, match=reason):
        read_graph(changed.encode(), weights)


def test_a_bundle_with_such_an_operation_is_refused_with_a_sentence(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSIONLENS_ENGINE", "openvino")
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    structure, weights = files(pad(65_536, -65_536))
    (folder / "head.xml").write_bytes(structure)
    (folder / "head.bin").write_bytes(weights)
    assert main(["check", str(seal(folder, ("head.xml", "head.bin")))]) == 1
    sentence = capsys.readouterr().err
    assert sentence.startswith("fusionlens: head.xml: ") and sentence.count("\n") == 1
    assert "operation Pad has values from 0 to 65536" in sentence


def test_a_bundle_whose_graph_can_be_read_but_not_run_is_refused_with_a_sentence(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its logits are of three pictures, whatever their number."""
    monkeypatch.setenv("FUSIONLENS_ENGINE", "openvino")
    folder, bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle")), read_bundle(tiny_bundle)
    head = read_graph(bundle.graph("head.xml"), bundle.graph("head.bin"))
    result = head.output("logits").get_node()
    of_three = ops.reshape(ops.reduce_sum(head.inputs[0], integers(1, 2, 3)), integers(3, 1), False)
    result.input(0).replace_source_output(ops.add(result.input_value(0), of_three).output(0))
    result.output(0).get_tensor().set_names({"logits"})
    head.validate_nodes_and_infer_types()
    ov.serialize(head, folder / "head.xml")
    assert main(["check", str(seal(folder, ("head.xml", "head.bin")))]) == 1
    sentence = capsys.readouterr().err
    assert sentence.startswith("fusionlens: head.xml: cannot be run by OpenVINO") and sentence.count("\n") == 1
