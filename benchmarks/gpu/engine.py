"""The section of the engine: on a GPU it must answer as on a CPU, to many at once, and keep its memory."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch

from app.engines.heap import release_heap
from app.engines.protocol import Engine
from app.engines.torch import TorchEngine, load_model
from app.explain.cam import gradcam
from app.explain.integrated import NODES, gauss_patterson
from app.models.feature_maps import FeatureMaps, unbatched
from app.shapes import UInt8
from benchmarks.gpu.effort import Effort
from benchmarks.gpu.models import bundles, noise, torch_engine
from benchmarks.gpu.notes import Notes
from benchmarks.memory_steps import sizes_kb

FP32 = 1e-4
# Of a trunk in bfloat16. On a CPU, the demo's were 0.064, 0.0074 and 0.0003 for pictures of noise.
BF16_MAPS, BF16_LOGITS, BF16_HEATMAPS = 0.1, 0.05, 0.01
THREADS, PICTURES, MOST_GROWTH_MB = 8, 16, 2.5
Answers = dict[str, np.ndarray]


def measure(notes: Notes, effort: Effort, device: str, folder: Path) -> None:
    """The checks of every bundle. Errors are shares of the largest expected value, if nothing else is said."""
    notes.keep("explanations", effort.explanations)
    for name, bundle in bundles(effort, folder).items():
        here, there = TorchEngine(load_model(bundle)), torch_engine(bundle, device)
        images = noise(bundle, PICTURES)
        for kind, error in _errors(_answers(there, images[:3]), _answers(here, images[:3])).items():
            notes.check(f"{kind}, float32 on the device and on the CPU", error, FP32, name)
        for what, error, bound in _bf16(there, here, images[:3]):
            notes.check(f"{what}, trunk in bfloat16 and in float32", error, bound, name)
        for what, error, bound in _laws(there, images):
            notes.check(what, error, bound, name)
    if notes.has_time(10, "flat memory"):
        _flat_memory(notes, there, images, effort.explanations, name)


def _answers(engine: Engine, images: UInt8[np.ndarray, "b h w 3"]) -> Answers:
    """What an engine answers of some pictures. The first word of a name says what it is."""
    maps = engine.encode(images)
    classes = engine.classify(maps).shape[1]
    targets = np.random.default_rng(1).standard_normal((len(images), classes)).astype(np.float32)
    head = engine.explain(maps, targets)
    found: Answers = {f"maps {branch}": values for branch, values in maps.items()}
    found |= {f"gradients {branch}": values for branch, values in head.gradients.items()}
    found |= {"logits": head.logits, "logits classified": engine.classify(maps)}
    if head.attention is not None and head.attention_gradient is not None:
        found |= {"attention": head.attention, "attention gradient": head.attention_gradient}
    end, start = islice(unbatched(maps), 2)
    if engine.is_lifted:
        evidence = engine.path_evidence(end, start, gauss_patterson(NODES[0]).positions, targets[:1])
        found |= {f"evidence {branch}": values for branch, values in evidence.items()}
        groups = end.map(lambda feature_map: np.array([[0, 1], [2, len(feature_map)]]))
        found["ablations"] = engine.ablated_logits(end, start, groups)
    if engine.token_stages and (gradient := head.gradients.transformer) is not None:
        tokens = engine.tokens(images[0], gradient[0])
        found |= {f"tokens {height}": values for height, values in tokens.saliency.items()}
        found |= {} if tokens.attention is None else {"attention of tokens": tokens.attention}
    return found


def _errors(found: Answers, expected: Answers) -> dict[str, float]:
    """The largest error of each kind of answer."""
    errors: dict[str, float] = {}
    for name, values in expected.items():
        kind = name.partition(" ")[0]
        errors[kind] = max(errors.get(kind, 0.0), relative_error(found[name], values))
    return errors


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, as a share of the largest expected value. NaN if there is one."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _bf16(
    there: TorchEngine, here: TorchEngine, images: UInt8[np.ndarray, "b h w 3"]
) -> Iterator[tuple[str, float, float]]:
    """What a trunk in bfloat16 changes, with the head in float32, and by how much it may."""
    exact, rounded = here.encode(images), encode_in_bf16(there, images)
    for branch, expected in exact.items():
        error = float(np.linalg.norm(rounded[branch] - expected) / np.linalg.norm(expected))
        yield f"{branch} map, norm of the error ÷ norm", error, BF16_MAPS
    yield "logits", relative_error(there.classify(rounded), here.classify(exact)), BF16_LOGITS
    bias = np.zeros(here.classify(exact).shape[1], np.float32)
    ours, theirs = there.answer(rounded, bias), here.answer(exact, bias)
    for branch, expected in exact.items():
        pairs = zip(
            gradcam(rounded[branch], ours.gradients[branch]), gradcam(expected, theirs.gradients[branch]), strict=True
        )
        yield f"{branch} heatmap, 1 − cosine", max(1 - _cosine(*pair) for pair in pairs), BF16_HEATMAPS


@torch.no_grad()
def encode_in_bf16(engine: TorchEngine, images: UInt8[np.ndarray, "b h w 3"]) -> FeatureMaps[np.ndarray]:
    """The engine's maps, float32, from a trunk that computes in bfloat16 where autocast lets it."""
    pixels = torch.from_numpy(images).to(engine.device).permute(0, 3, 1, 2).float() / 255
    with torch.autocast(engine.device.type, torch.bfloat16):
        maps = engine._model.encode(pixels)
    return maps.map(lambda values: np.ascontiguousarray(values.float().cpu().numpy()))


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


def _laws(engine: TorchEngine, images: UInt8[np.ndarray, "b h w 3"]) -> Iterator[tuple[str, float, float]]:
    """What holds of every engine: see tests/engines/test_engines.py."""
    together = engine.encode(images)
    alone = [engine.encode(image[None]) for image in images]
    error = max(relative_error(np.concatenate([one[branch] for one in alone]), together[branch]) for branch in together)
    yield f"maps of {len(images)} pictures together and one by one", error, FP32
    first, again = (_answers(engine, images[:3]) for _ in range(2))
    yield "the same question twice, largest difference", max(_difference(first[n], again[n]) for n in first), 0.0
    barrier = threading.Barrier(THREADS)

    def ask(number: int) -> Answers:
        barrier.wait(timeout=60)
        return _answers(engine, np.roll(images[:3], number, axis=1))

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(ask, range(THREADS)))
    barrier = threading.Barrier(1)
    error = max(max(_errors(answer, ask(number)).values()) for number, answer in enumerate(answers))
    yield f"{THREADS} threads at once and one", error, FP32


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


def _flat_memory(
    notes: Notes, engine: TorchEngine, images: UInt8[np.ndarray, "b h w 3"], explanations: int, name: str
) -> None:
    """What many explanations leave behind, in this process and on the device."""
    maps = engine.encode(images[:3])
    end, start = islice(unbatched(maps), 2)
    targets = np.eye(engine.classify(maps).shape[1], dtype=np.float32)[[0, 1, 0]]

    def explain(times: int) -> None:
        for number in range(times):
            size = 1 + number % 3
            some = FeatureMaps({branch: feature_map[:size] for branch, feature_map in maps.items()})
            engine.explain(some, targets[:size])
            engine.path_evidence(end, start, gauss_patterson(NODES[0]).positions, targets[:1])
            if number % 100 == 0:
                engine.encode(images[:size])

    explain(max(3, explanations // 7))  # whatever is made once, for batches of every size
    on_gpu = engine.device.type == "cuda"
    resident_mb, before = [_resident_mb()], torch.cuda.memory_allocated() if on_gpu else 0
    for _ in range(4):
        explain(explanations // 4)
        resident_mb.append(_resident_mb())
    if on_gpu:
        grown_mb = (torch.cuda.memory_allocated() - before) / 1e6
        notes.check(f"MB more allocated on the device after {explanations} explanations", grown_mb, 0.0, name)
    else:
        notes.skip("memory allocated on the device: torch counts none on a CPU")
    # A leak grows in each round; what allocators keep does not.
    grown_mb = min(after - earlier for earlier, after in pairwise(resident_mb))
    what = f"MB more of this process after {explanations // 4} explanations, the least of four times"
    notes.check(what, grown_mb, MOST_GROWTH_MB, name)


def _resident_mb() -> float:
    gc.collect()
    release_heap()
    return sizes_kb()["Rss"] / 1e3
