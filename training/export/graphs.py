"""A model as plain inference graphs, gradients included, which the service runs without torch.

They must answer as the module does that they were made of, and what storing them in fp16 changes is bounded apart.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from jaxtyping import Float, UInt8
from torch import Tensor

from app.bundles.graph_names import TOKENS
from app.engines.cpu import available_cores
from app.engines.openvino import openvino_engine
from app.engines.openvino_graphs import read_graph
from app.engines.protocol import Engine, HeadResult
from app.engines.torch import TorchEngine
from app.models.cnnswin import CNNViTFusion
from training.export.tracing import Graphs, trace

Images = UInt8[np.ndarray, "_b h w 3"]  # batches of one call differ in size

TRUNK_OFF, HEAD_OFF = 1e-3, 1e-5  # most that a graph may differ from the module, over the largest value
STORED_OFF = 1e-2  # most that fp16 storage may change a logit
_ALIGNED_BYTES = 64
_CONSTANTS = ".//layer[@type='Const']/data"


class GraphError(ValueError):
    """Graphs that do not answer as their module does: which output, and by how much."""


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
    graphs, module = trace(model), TorchEngine(model)
    _check_exact(module, openvino_engine(*graphs, available_cores()), batches)
    files = in_fp16(graphs)
    numbers = files["trunk.bin"]
    stored = Graphs(
        read_graph(files["trunk.xml"], numbers),
        read_graph(files["head.xml"], files["head.bin"]),
        read_graph(files[TOKENS], numbers) if TOKENS in files else None,
    )
    _check_stored(module, openvino_engine(*stored, available_cores()), batches)
    return files


def in_fp16(graphs: Graphs) -> dict[str, bytes]:
    """The graphs as a bundle's files. Most numbers of the tokens' graph are the trunk's, and are stored once."""
    files: dict[str, bytes] = {}
    if graphs.tokens is not None:
        _turn_as_in(graphs.trunk, graphs.tokens)
    with TemporaryDirectory() as temporary:
        for name, graph in graphs._asdict().items():
            if graph is not None:
                ov.save_model(graph, Path(temporary) / f"{name}.xml", compress_to_fp16=True)
                files |= {file: (Path(temporary) / file).read_bytes() for file in (f"{name}.xml", f"{name}.bin")}
    if graphs.tokens is not None:
        structure, files["trunk.bin"] = _moved(
            files.pop("tokens.xml"), files.pop("tokens.bin"), files["trunk.xml"], files["trunk.bin"]
        )
        files[TOKENS] = gzip.compress(structure, mtime=0)
    return files


def _turn_as_in(host: ov.Model, graph: ov.Model) -> None:
    """Have `graph` transpose those matrices that `host` holds the other way round, so that both hold the same bytes."""
    held = {constant.data.tobytes() for constant in _matrices(host)}
    for constant in _matrices(graph):
        turned = np.ascontiguousarray(constant.data.T)
        if constant.data.tobytes() not in held and turned.tobytes() in held:
            back = ops.transpose(ops.constant(turned), ops.constant([1, 0]))
            for user in constant.output(0).get_target_inputs():
                user.replace_source_output(back.output(0))


def _matrices(graph: ov.Model) -> Iterator[ov.op.Constant]:
    for operation in graph.get_ops():
        if operation.get_type_name() == "Constant" and len(operation.shape) == 2:
            yield operation


def _moved(structure: bytes, numbers: bytes, host: bytes, host_numbers: bytes) -> tuple[bytes, bytes]:
    """A graph whose constants lie in the file of numbers of another graph, and that file with what it did not have."""
    places = {}
    # Both were written a moment ago, by OpenVINO.
    host_root, root = ElementTree.fromstring(host), ElementTree.fromstring(structure)  # noqa: S314
    for constant in host_root.iterfind(_CONSTANTS):
        start, size = int(constant.attrib["offset"]), int(constant.attrib["size"])
        places[host_numbers[start : start + size]] = start
    joined = bytearray(host_numbers)
    for constant in root.iterfind(_CONSTANTS):
        start, size = int(constant.attrib["offset"]), int(constant.attrib["size"])
        content = numbers[start : start + size]
        if content not in places:
            joined += bytes(-len(joined) % _ALIGNED_BYTES)
            places[content] = len(joined)
            joined += content
        constant.set("offset", str(places[content]))
    return ElementTree.tostring(root), bytes(joined)


def _check_exact(module: Engine, graphs: Engine, batches: Iterable[Images]) -> None:
    for images in batches:
        maps, from_graph = module.encode(images), graphs.encode(images)
        for branch, expected in maps.items():
            _must_be_close(f"the trunk's {branch} map", from_graph[branch], expected, TRUNK_OFF)
        logits = module.classify(maps)
        _must_be_close("the head's logits without gradients", graphs.classify(maps), logits, HEAD_OFF)
        for target in _targets(*logits.shape):
            head = module.explain(maps, target)
            _must_agree(head, graphs.explain(maps, target), HEAD_OFF)
        _check_tokens(module, graphs, images[0], head, TRUNK_OFF)


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
            head = module.explain(maps, target)
            _must_agree(head, graphs.explain(maps, target), STORED_OFF)
        _check_tokens(module, graphs, images[0], head, STORED_OFF)


def _check_tokens(
    module: Engine, graphs: Engine, image: UInt8[np.ndarray, "h w 3"], head: HeadResult, tolerance: float
) -> None:
    if "swin" not in head.gradients or not module.token_stages:
        return
    expected, found = (engine.tokens(image, head.gradients["swin"][0]) for engine in (module, graphs))
    _must_be_close("the Swin's attention", found.attention, expected.attention, tolerance)
    for height, saliency in expected.saliency.items():
        _must_be_close(f"the saliency of {height} rows of tokens", found.saliency[height], saliency, tolerance)


def _must_agree(expected: HeadResult, found: HeadResult, tolerance: float) -> None:
    _must_be_close("the head's logits", found.logits, expected.logits, tolerance)
    for branch, gradient in expected.gradients.items():
        _must_be_close(f"the head's gradient by the {branch} map", found.gradients[branch], gradient, tolerance)
    if expected.attention is not None and expected.attention_gradient is not None:
        assert found.attention is not None and found.attention_gradient is not None
        _must_be_close("the head's attention", found.attention, expected.attention, tolerance)
        _must_be_close(
            "the gradient by the attention", found.attention_gradient, expected.attention_gradient, tolerance
        )


def _targets(pictures: int, classes: int) -> Iterator[Float[np.ndarray, "b k"]]:
    """The first and the last class alone, and a contrast of all."""
    yield np.tile(np.eye(classes, dtype=np.float32)[0], (pictures, 1))
    yield np.tile(np.eye(classes, dtype=np.float32)[-1], (pictures, 1))
    yield np.random.default_rng(1).standard_normal((pictures, classes)).astype(np.float32)


def _must_be_close(what: str, found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    off = float(np.abs(found - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
    if not off <= tolerance:  # NaN too
        raise GraphError(f"{what} is {off:.1e} of its scale off the model's: at most {tolerance:g} is rounding")
