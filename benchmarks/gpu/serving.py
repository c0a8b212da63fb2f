"""The section of serving: pictures per second of several ways to run the model, for batches of several sizes.

Each way does what the service needs of it: 8-bit pictures in this process's memory become feature maps and logits
there. The first way is the engine's own.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from app.engines.torch import TorchEngine, load_model
from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import FeatureMaps
from app.shapes import Float32, UInt8
from benchmarks.gpu.effort import Effort
from benchmarks.gpu.engine import relative_error
from benchmarks.gpu.models import bundles, noise, torch_engine
from benchmarks.gpu.notes import Notes

Images = UInt8[np.ndarray, "b h w 3"]
Run = Callable[[Images], Float32[np.ndarray, "b k"]]  # from pictures to logits, with the maps brought back on the way
Forward = Callable[[Tensor], tuple[Tensor, ...]]  # from pixels, uint8 [B, h, w, 3], to the maps and at last the logits
ENOUGH_S = 0.5  # of rounds for one batch
EAGER_S, GRAPHED_S, COMPILED_S = 4.0, 8.0, 45.0  # at most, to make and to time a way for one batch
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True)
class Way:
    """A way to run the model, for batches of some sizes, and for so many of the models.

    `make` is given an engine and pictures like those that will come. It takes `needed_s` to make one and to time it, at
    most.
    """

    name: str
    make: Callable[[TorchEngine, Images], Run]
    batches: tuple[int, ...]
    needed_s: float
    models: int


def measure(notes: Notes, effort: Effort, device: str, folder: Path) -> None:
    """Keep the times of every way for every batch, in ms, and the error of its logits."""
    models = bundles(effort, folder)
    engines = {name: torch_engine(bundle, device) for name, bundle in models.items()}
    pictures = {name: noise(bundle, max(effort.batches)) for name, bundle in models.items()}
    on_cpu = {name: TorchEngine(load_model(bundle)) for name, bundle in models.items()}
    expected = {name: _eager(on_cpu[name], images)(images) for name, images in pictures.items()}
    rows: list[dict[str, object]] = []
    for way in _ways(notes, effort, device):
        for name, engine in list(engines.items())[: way.models]:
            for batch in way.batches:
                what = f"{name}: {way.name}, batches of {batch}"
                if not notes.has_time(way.needed_s, what):
                    continue
                try:
                    found = _timed(way, engine, pictures[name][:batch], expected[name][:batch], effort)
                except RuntimeError as error:  # of a compiler, of a capture, or of too little memory
                    notes.skip(f"{what}: it failed ({_first_line(error)})")
                    continue
                rows.append({"model": name, "way": way.name, "batch": batch} | found)
                notes.keep("rows", rows)


def _first_line(error: RuntimeError) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _timed(
    way: Way, engine: TorchEngine, images: Images, expected: Float32[np.ndarray, "b k"], effort: Effort
) -> dict[str, object]:
    """How long a way takes to make, in s, and then for each round, in ms, after the warm-ups; and its error.

    Rounds end early when they have taken long enough.
    """
    began = time.perf_counter()
    run = way.make(engine, images)
    error = relative_error(run(images), expected)
    made_s, times_ms = time.perf_counter() - began, list[float]()
    for number in range(effort.warmups + effort.rounds):
        began = time.perf_counter()
        run(images)
        if number >= effort.warmups:
            times_ms.append((time.perf_counter() - began) * 1e3)
        if len(times_ms) >= 3 and sum(times_ms) > ENOUGH_S * 1e3:
            break
    return {"made_s": made_s, "error": error, "times_ms": times_ms}


def _ways(notes: Notes, effort: Effort, device: str) -> list[Way]:
    """The ways that can be gone on the device, those first that take no time to make."""
    every = effort.batches
    ways = [
        Way("eager, float32, channels last", _eager, every, EAGER_S, 2),
        Way("eager, float32, contiguous", _contiguous, every, EAGER_S, 2),
        Way("eager, bfloat16, channels last", _eager_bf16, every, EAGER_S, 2),
    ]
    if device == "cuda":
        ways += [Way(f"CUDA graph, {NAMES[dtype]}", _graphed(dtype), every, GRAPHED_S, 2) for dtype in NAMES]
    else:
        notes.skip("CUDA graphs: there are none on a CPU")
    for dtype in reversed(NAMES):
        make = _compiled(dtype, effort.compiler)
        ways.append(Way(f"torch.compile, {NAMES[dtype]}", make, effort.compiled_batches, COMPILED_S, 1))
    return ways


def _eager(engine: TorchEngine, images: Images) -> Run:
    """The engine's own way."""
    return lambda asked: engine.classify(engine.encode(asked))


def _contiguous(engine: TorchEngine, images: Images) -> Run:
    """The same without the memory format that the engine chooses."""
    model = copy.deepcopy(engine._model).to(memory_format=torch.contiguous_format)
    return _run(engine, _forward(model, torch.float32, torch.contiguous_format))


def _eager_bf16(engine: TorchEngine, images: Images) -> Run:
    return _run(engine, _forward(engine._model, torch.bfloat16))


def _compiled(dtype: torch.dtype, compiler: str) -> Callable[[TorchEngine, Images], Run]:
    """`torch.compile` for batches of one size."""

    def make(engine: TorchEngine, images: Images) -> Run:
        torch._dynamo.reset()
        return _run(engine, torch.compile(_forward(engine._model, dtype), backend=compiler, dynamic=False))

    return make


def _graphed(dtype: torch.dtype) -> Callable[[TorchEngine, Images], Run]:
    """A CUDA graph for batches of one size, which starts all kernels at once: see `torch.cuda.graph`."""

    @torch.no_grad()
    def make(engine: TorchEngine, images: Images) -> Run:
        forward, pixels = _forward(engine._model, dtype), torch.from_numpy(images).to(engine.device)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what is made at the first calls is not part of the graph
            for _ in range(3):
                forward(pixels)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = forward(pixels)

        def replay(asked: Tensor) -> tuple[Tensor, ...]:
            pixels.copy_(asked)
            graph.replay()
            return outputs

        return _run(engine, replay)

    return make


def _forward(
    model: CNNViTFusion, dtype: torch.dtype, memory_format: torch.memory_format = torch.channels_last
) -> Forward:
    """The model as a function. With bfloat16, the trunk computes in it as autocast lets it, and the head does not."""

    def forward(pixels: Tensor) -> tuple[Tensor, ...]:
        image = (pixels.permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=memory_format)
        # Without its cache: what is cast while a CUDA graph is captured belongs to that graph.
        lower = dtype is not torch.float32
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=lower, cache_enabled=False):
            maps = model.encode(image)
        maps = FeatureMaps({branch: values.float() for branch, values in maps.items()})
        return (*maps.values(), model.classify(maps)[0])

    return forward


def _run(engine: TorchEngine, forward: Forward) -> Run:
    @torch.no_grad()
    def run(images: Images) -> Float32[np.ndarray, "b k"]:
        outputs = [values.cpu().numpy() for values in forward(torch.from_numpy(images).to(engine.device))]
        return np.asarray(outputs[-1])

    return run
