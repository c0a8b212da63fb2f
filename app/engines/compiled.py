"""Compiled graphs: compiling, the cache of compiled graphs, and running one from several threads."""

from __future__ import annotations

import errno
import hashlib
import logging
import mmap
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkstemp
from threading import Lock
from typing import Any

import numpy as np

from app import __version__
from app.bundles.reader import Bundle
from app.engines.openvino_graphs import (
    CORE,
    FILES,
    Sizes,
    derived_graph,
    graph_of,
    last_line,
    refuse_other_weights,
    with_sizes,
)
from app.engines.runtime import ov
from app.errors import BundleError, EngineError
from app.shapes import Float32

_LOG = logging.getLogger(__name__)
_MOST_IDLE = 4  # infer requests of a graph that are kept, with their buffers, for further calls
# From the name of a graph, a number of streams, which are concurrent calls, and sizes, to the compiled graph.
CompileGraph = Callable[[str, int, Sizes | None], "Graph"]


def compiler_of(graphs: Mapping[str, ov.Model | None], threads: int) -> CompileGraph:
    """Compiles graphs that are in memory."""

    def compile_graph(name: str, streams: int, sizes: Sizes | None) -> Graph:
        graph = graphs[name]
        assert graph is not None
        return Graph(name, _compiled(name, with_sizes(graph.clone(), sizes), _options(threads, streams)))

    return compile_graph


class BundleCompiler:
    """Compiles the graphs of a bundle, which it reads again once `forget` was called. Several threads can use it.

    Compiled graphs are stored in the folder `cache`, if one is given. Raises BundleError if a graph does not match the
    manifest or cannot be compiled, and EngineError if the cache cannot be used.
    """

    def __init__(self, bundle: Bundle, threads: int, cache: Path | None) -> None:
        self._bundle, self._threads, self._cache = bundle, threads, cache
        self._read_once: dict[tuple[str, str], ov.Model] | None = {}  # until `forget`, the graphs by their files
        self._reading = Lock()

    def forget(self) -> None:
        """Free the weights of the bundle, and the graphs that were read."""
        self._bundle, self._read_once = self._bundle.without_weights(), None

    def __call__(self, name: str, streams: int, sizes: Sizes | None) -> Graph:
        """The compiled graph of this name. See `CompileGraph`."""
        options = _options(self._threads, streams)
        if self._cache is None:
            return Graph(name, self._compile(name, sizes, options))
        device = CORE.get_property("CPU", "FULL_DEVICE_NAME")
        key = f"{self._bundle.sha256} {name} {sizes} {__version__} {ov.get_version()} {device}"
        file = self._cache / f"{hashlib.sha256(key.encode()).hexdigest()}.blob"
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                graph = self._compile(name, sizes, options)
                if not _write_atomically(file, graph.export_model().getvalue()):
                    return Graph(name, graph)
            return _import(name, file, options)
        except OSError as error:
            reason = f"The cache folder {self._cache} cannot be used ({error.strerror}): choose another."
            raise EngineError(reason) from error

    def _compile(self, name: str, sizes: Sizes | None, options: dict[str, Any]) -> ov.CompiledModel:
        graph = derived_graph(self._bundle.manifest, name, self._read(FILES[name]))
        return _compiled(name, with_sizes(graph, sizes), options)

    def _read(self, files: tuple[str, str]) -> ov.Model:
        """The graph in these files, which may be changed."""
        if self._read_once is None:
            return graph_of(self._bundle, files)
        with self._reading:
            if files not in self._read_once:
                self._read_once[files] = graph_of(self._bundle, files)
            return self._read_once[files].clone()


def _options(threads: int, streams: int) -> dict[str, Any]:
    options = {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    # With pinning, the threads of every process would take the first cores of the machine, so processes would collide.
    return options | {"ENABLE_CPU_PINNING": False}


def _compiled(name: str, graph: ov.Model | None, options: dict[str, Any]) -> ov.CompiledModel:
    """Compile the graph `name`. Raises BundleError."""
    try:
        return CORE.compile_model(graph, "CPU", options)
    except RuntimeError as error:
        raise _unusable(name, "cannot be compiled", error) from error


def _unusable(name: str, what: str, error: RuntimeError) -> BundleError:
    reason = f"{what} by OpenVINO {ov.get_version()} ({last_line(error)}): compile it again"
    return BundleError(FILES[name][0], reason)


def _import(name: str, file: Path, options: dict[str, Any]) -> Graph:
    """The compiled graph in a file. The file is mapped, read once, and its pages are released again."""
    refuse_other_weights()
    try:
        with file.open("rb") as opened:
            mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)  # OpenVINO accepts no read-only memory
        compiled = CORE.import_model(ov.Tensor(np.frombuffer(mapping, np.uint8), shared_memory=True), "CPU", options)
    except (RuntimeError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise EngineError(f"The cached graph {file} cannot be used ({error}): delete it.") from error
    if sys.platform != "win32":
        mapping.madvise(mmap.MADV_DONTNEED)
    return Graph(name, compiled, mapping)


def _write_atomically(file: Path, content: bytes) -> bool:
    """Write a file that other processes see complete or not at all.

    Returns False, after a warning in the log, if the disk is full. Raises other OSErrors.
    """
    descriptor, name = mkstemp(dir=file.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
        temporary.replace(file)
    except OSError as error:
        temporary.unlink()
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _LOG.warning("The cache folder %s has no room left: the next start will compile again.", file.parent)
        return False
    return True


class Graph:
    """A compiled graph that several threads can run: each call takes an idle infer request, or creates one."""

    def __init__(self, name: str, compiled: ov.CompiledModel, memory: mmap.mmap | None = None) -> None:
        self._name, self._compiled, self._memory = (
            name,
            compiled,
            memory,
        )  # OpenVINO does not keep the imported memory alive
        self._outputs = [output.any_name for output in compiled.outputs]
        self._idle: deque[ov.InferRequest] = deque()

    def run(self, inputs: Mapping[Any, np.ndarray]) -> dict[str, Float32[np.ndarray, "..."]]:
        """Run the graph. Returns new arrays by the name of the output. Raises BundleError if it cannot be run."""
        try:
            request = self._idle_request()
            results = request.infer(dict(inputs), share_inputs=True)
        except RuntimeError as error:
            raise _unusable(self._name, "cannot be run", error) from error
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(request)
        return dict(zip(self._outputs, results.to_tuple(), strict=True))

    def _idle_request(self) -> ov.InferRequest:
        try:
            return self._idle.pop()
        except IndexError:
            return self._compiled.create_infer_request()
