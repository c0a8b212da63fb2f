"""Inference graphs of a model, gradients included, which the service runs without torch.

The graphs are compared with the torch module that they were traced from. A second check bounds the rounding error of
storing them in fp16.
"""

from __future__ import annotations

import copy
import gzip
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from app.bundles.graph_names import LIFTED, TOKENS
from app.engines.cpu import available_cores
from app.engines.openvino import openvino_engine
from app.engines.openvino_graphs import read_graph
from app.engines.protocol import Engine, HeadResult
from app.engines.runtime import ops, ov
from app.engines.torch import TorchEngine, on_device
from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import FeatureMaps, unbatched
from app.shapes import Float, UInt8
from training.export.graph_errors import WITHOUT_TOKENS, GraphError, TokenGraphError
from training.export.tracing import (
    Graphs,
    refuse_masks_of_any_size,
    trace_answer,
    trace_tokens,
    trace_trunk,
)

Images = UInt8[np.ndarray, "_b h w 3"]  # batches of one call differ in size

MAX_TRUNK_ERROR, MAX_HEAD_ERROR = 1e-3, 1e-5  # largest error of a graph, relative to the largest value
MAX_STORED_ERROR = 1e-2  # largest change of a logit by storing the graphs in fp16
_ALIGNED_BYTES = 64
__all__ = ["WITHOUT_TOKENS", "GraphError", "check_exportable", "to_fp16_files", "write_graphs"]
_CONSTANTS = ".//layer[@type='Const']/data"


def write_graphs(
    model: CNNViTFusion, pictures: Iterable[Images], report: Callable[[str], None] = lambda sentence: None
) -> dict[str, bytes]:
    """Trace a model to graphs, check them, and return the content of a bundle's graph files by name.

    The model is in eval mode, with its weights rounded as the bundle stores them. The graphs are compared with it on
    noise and on the batches `pictures`, on the CPU in float32. `report` receives a sentence if the model's
    tokens cannot have a graph. Raises GraphError.
    """
    height, width = model.image_size
    batches, model = [_soft_noise(height, width), *pictures], on_device(model, "cpu")
    module = TorchEngine(model)

    def checked_files(graphs: Graphs) -> dict[str, bytes]:
        _check_exact(module, openvino_engine(*graphs, available_cores()), batches)
        files = to_fp16_files(graphs)
        _check_stored(module, openvino_engine(*_read_back(files), available_cores()), batches)
        return files

    answer = trace_answer(model)
    try:
        return checked_files(answer._replace(tokens=trace_tokens(model)))
    except TokenGraphError as error:
        report(_without_tokens(error))
        return checked_files(answer)


def _soft_noise(height: int, width: int) -> UInt8[np.ndarray, "4 h w 3"]:
    """Four pictures of coarse noise with a little fine noise over it.

    White noise is so unlike any picture that float32 alone loses all digits in some backbones: their values grow from
    layer to layer, and with them the rounding errors.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(8, 248, (4, -(-height // 16) + 1, -(-width // 16) + 1, 3)).astype(np.uint8)
    soft = np.stack(
        [np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BILINEAR)) for one in coarse]
    )
    return np.asarray(soft + rng.integers(-8, 8, soft.shape), np.uint8)


def check_exportable(model: CNNViTFusion, report: Callable[[str], None]) -> None:
    """Check that graphs can be made of a model with these backbones, whatever its weights become. Takes seconds.

    The trunk is traced, and read as a bundle's is, but not compared with the model; heads are those of this project,
    which all have graphs. `report` receives a sentence if the transformer's tokens will have no graph. The model is
    left as it is. Raises GraphError.
    """
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    _read_file(_saved("trunk", trace_trunk(model)), "trunk.xml", "trunk.bin", GraphError)
    try:
        if "vit" in model.map_shapes:
            trace_tokens(model)
        else:  # the tokens of any other Swin are known to have one
            refuse_masks_of_any_size(model)
    except TokenGraphError as error:
        report(_without_tokens(error))


def _without_tokens(error: TokenGraphError) -> str:
    return f"{WITHOUT_TOKENS}: {error}."


def _read_back(files: Mapping[str, bytes]) -> Graphs:
    """The graphs in a bundle's files, as the service reads them. Raises GraphError and TokenGraphError."""
    trunk, head = (_read_file(files, f"{name}.xml", f"{name}.bin", GraphError) for name in ("trunk", "head"))
    lifted = _read_file(files, *LIFTED, GraphError) if LIFTED[0] in files else None
    tokens = _read_file(files, TOKENS, "trunk.bin", TokenGraphError) if TOKENS in files else None
    return Graphs(trunk, head, lifted, tokens)


def _read_file(files: Mapping[str, bytes], structure: str, weights: str, refusal: type[GraphError]) -> ov.Model:
    try:
        return read_graph(files[structure], files[weights])
    except ValueError as error:
        raise refusal(f"OpenVINO {ov.get_version()} writes a graph that no bundle may have: {error}") from error


def to_fp16_files(graphs: Graphs) -> dict[str, bytes]:
    """Return the graphs as files by name, in fp16 but for the lifted head.

    Its matrices are products of weights, so that fp16 would round them. Constants that the token graph shares with the
    trunk are stored once.
    """
    files: dict[str, bytes] = {}
    if graphs.tokens is not None:
        _transpose_as_in(graphs.trunk, graphs.tokens)
    for name, graph in graphs._asdict().items():
        if graph is not None:
            files |= _saved(name, graph, in_fp16=name != "lifted")
    if graphs.tokens is not None:
        structure, files["trunk.bin"] = _merge_constants(
            files.pop("tokens.xml"), files.pop("tokens.bin"), files["trunk.xml"], files["trunk.bin"]
        )
        files[TOKENS] = gzip.compress(structure, mtime=0)
    return files


def _saved(name: str, graph: ov.Model, in_fp16: bool = True) -> dict[str, bytes]:
    """The two files of a graph, by name. OpenVINO writes them to the temporary folder. Raises GraphError."""
    try:
        with TemporaryDirectory() as temporary:
            ov.save_model(graph, Path(temporary) / f"{name}.xml", compress_to_fp16=in_fp16)
            return {file: (Path(temporary) / file).read_bytes() for file in (f"{name}.xml", f"{name}.bin")}
    except (RuntimeError, OSError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).strip().splitlines()[-1]
        raise GraphError(
            f"the {name} graph cannot be written to the temporary folder, {_temporary_folder()} ({reason}): make room "
            "there, or set TMPDIR to a folder that has room and can be written to"
        ) from error


def _temporary_folder() -> str:
    try:
        return gettempdir()
    except OSError:  # there is none
        return os.environ.get("TMPDIR", "/tmp")  # noqa: S108


def _transpose_as_in(host: ov.Model, graph: ov.Model) -> None:
    """Store matrices of `graph` transposed where `host` has them transposed, so that both have the same bytes."""
    host_matrices = {constant.data.tobytes() for constant in _matrices(host)}
    for constant in _matrices(graph):
        transposed = np.ascontiguousarray(constant.data.T)
        if constant.data.tobytes() not in host_matrices and transposed.tobytes() in host_matrices:
            back = ops.transpose(ops.constant(transposed), ops.constant([1, 0]))
            for user in constant.output(0).get_target_inputs():
                user.replace_source_output(back.output(0))


def _matrices(graph: ov.Model) -> Iterator[ov.op.Constant]:
    for operation in graph.get_ops():
        if operation.get_type_name() == "Constant" and len(operation.shape) == 2:
            yield operation


def _merge_constants(structure: bytes, constants: bytes, host: bytes, host_constants: bytes) -> tuple[bytes, bytes]:
    """Move a graph's constants into the file of another graph's constants, without storing equal ones twice.

    `structure` and `constants` are the graph's XML and binary files, `host` and `host_constants` those of the other
    graph. Returns the graph's XML with its new offsets, and the extended binary file.
    """
    offsets = {}
    # OpenVINO has just written both files, so they are trusted.
    host_root, root = ElementTree.fromstring(host), ElementTree.fromstring(structure)  # noqa: S314
    for constant in host_root.iterfind(_CONSTANTS):
        start, size = int(constant.attrib["offset"]), int(constant.attrib["size"])
        offsets[host_constants[start : start + size]] = start
    merged = bytearray(host_constants)
    for constant in root.iterfind(_CONSTANTS):
        start, size = int(constant.attrib["offset"]), int(constant.attrib["size"])
        content = constants[start : start + size]
        if content not in offsets:
            merged += bytes(-len(merged) % _ALIGNED_BYTES)
            offsets[content] = len(merged)
            merged += content
        constant.set("offset", str(offsets[content]))
    return ElementTree.tostring(root), bytes(merged)


def _check_exact(module: Engine, graphs: Engine, batches: Iterable[Images]) -> None:
    for images in batches:
        maps, from_graph = module.encode(images), graphs.encode(images)
        for branch, expected in maps.items():
            _check_close(f"the trunk's {branch} map", from_graph[branch], expected, MAX_TRUNK_ERROR)
        logits = module.classify(maps)
        _check_close("the head's logits without gradients", graphs.classify(maps), logits, MAX_HEAD_ERROR)
        for target in _targets(*logits.shape):
            head = module.explain(maps, target)
            _check_head(head, graphs.explain(maps, target), MAX_HEAD_ERROR)
        if graphs.is_lifted:
            _check_lifted(module, graphs, maps)
        _check_tokens(module, graphs, images[0], head, MAX_TRUNK_ERROR)


def _check_stored(module: Engine, graphs: Engine, batches: Iterable[Images]) -> None:
    for images in batches:
        maps = module.encode(images)
        expected, stored = module.classify(maps), graphs.classify(graphs.encode(images))
        if not (error := float(np.abs(stored - expected).max())) <= MAX_STORED_ERROR:
            raise GraphError(
                f"in fp16 the graphs' logits are off by {error:.1e}, more than rounding explains ({MAX_STORED_ERROR:g})"
            )
        ranked = np.sort(expected, axis=1)
        clear = ranked[:, -1] - ranked[:, -2] > 2 * MAX_STORED_ERROR  # otherwise the two best classes are tied
        if (stored.argmax(axis=1) != expected.argmax(axis=1))[clear].any():
            raise GraphError("in fp16 the graphs answer another class than the model")
        for target in _targets(*expected.shape):
            head = module.explain(maps, target)
            _check_head(head, graphs.explain(maps, target), MAX_STORED_ERROR)
        _check_tokens(module, graphs, images[0], head, MAX_STORED_ERROR)


def _check_tokens(
    module: Engine, graphs: Engine, image: UInt8[np.ndarray, "h w 3"], head: HeadResult, tolerance: float
) -> None:
    if not graphs.token_stages:
        return
    gradient = head.gradients.transformer
    assert gradient is not None
    expected, actual = (engine.tokens(image, gradient[0]) for engine in (module, graphs))
    if expected.attention is not None and actual.attention is not None:
        _check_close("the tokens' attention", actual.attention, expected.attention, tolerance, TokenGraphError)
    for height, saliency in expected.saliency.items():
        name = f"the saliency of {height} rows of tokens"
        _check_close(name, actual.saliency[height], saliency, tolerance, TokenGraphError)


def _check_head(expected: HeadResult, actual: HeadResult, tolerance: float) -> None:
    _check_close("the head's logits", actual.logits, expected.logits, tolerance)
    for branch, gradient in expected.gradients.items():
        _check_close(
            f"the head's gradient with respect to the {branch} map", actual.gradients[branch], gradient, tolerance
        )
    if expected.attention is not None and expected.attention_gradient is not None:
        assert actual.attention is not None and actual.attention_gradient is not None
        _check_close("the head's attention", actual.attention, expected.attention, tolerance)
        _check_close(
            "the head's gradient with respect to the attention",
            actual.attention_gradient,
            expected.attention_gradient,
            tolerance,
        )


def _check_lifted(module: Engine, graphs: Engine, maps: FeatureMaps[np.ndarray]) -> None:
    """Compare the lifted head on the path from maps of zeros to the first picture's, for targets of all kinds."""
    end = next(unbatched(maps))
    start = end.map(np.zeros_like)
    targets = np.concatenate(list(_targets(1, module.classify(maps).shape[1])))
    expected, actual = (
        engine.path_evidence(end, start, np.array([0.0, 0.25, 0.75, 1.0]), targets) for engine in (module, graphs)
    )
    for branch, evidence in expected.items():
        _check_close(f"the evidence of the {branch} map", actual[branch], evidence, MAX_HEAD_ERROR)
    groups = end.map(lambda feature_map: np.array([[0], [len(feature_map)]]))  # of each map a channel, then nothing
    logits, correct = (engine.ablated_logits(end, start, groups) for engine in (graphs, module))
    _check_close("the logits with ablated channels", logits, correct, MAX_HEAD_ERROR)


def _targets(pictures: int, classes: int) -> Iterator[Float[np.ndarray, "b k"]]:
    """Yield weightings of the logits: the first class alone, the last class alone, and a random contrast of all."""
    yield np.tile(np.eye(classes, dtype=np.float32)[0], (pictures, 1))
    yield np.tile(np.eye(classes, dtype=np.float32)[-1], (pictures, 1))
    yield np.random.default_rng(1).standard_normal((pictures, classes)).astype(np.float32)


def _check_close(
    output: str, actual: np.ndarray, expected: np.ndarray, tolerance: float, refusal: type[GraphError] = GraphError
) -> None:
    error = float(np.abs(actual - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
    if not error <= tolerance:  # NaN too
        raise refusal(
            f"{output}: the largest error is {error:.1e} of its scale, more than rounding explains ({tolerance:g})"
        )
