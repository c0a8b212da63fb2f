"""The OpenVINO engine: it runs a bundle's graphs, gradients included, on a CPU and without torch."""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import Lock, Timer

import numpy as np
from threadpoolctl import ThreadpoolController

from app.bundles.graph_names import (
    LIFTED,
    TOKEN_ATTENTION,
    TOKEN_GRADIENT,
    baseline_input,
    channels_input,
    evidence_output,
    gradient_output,
    lifted_output,
    start_input,
    token_output,
)
from app.bundles.reader import Bundle
from app.engines.compiled import BundleCompiler, CompileGraph, Graph, compiler_of
from app.engines.heap import release_heap
from app.engines.openvino_graphs import Sizes, integrated_only, lift_only, logits_only, with_argmax_target
from app.engines.protocol import HeadResult, TokenResult
from app.engines.runtime import ov
from app.errors import FusionLensError
from app.models.feature_maps import BRANCHES, Branch, FeatureMaps
from app.shapes import Float, Float32, UInt8

_LOG = logging.getLogger(__name__)
# Nodes in one run of the lifted head. Numbers of nodes are mostly one less than a multiple of it.
PATH_NODES = 16
# The graphs that are compiled at the start, with the sizes of their inputs. OpenVINO compiles graphs that are a third
# faster for fixed sizes, but the head's own have any: so the logits of its two forms are the same to the bit.
_FORMS: dict[str, Sizes | None] = {"trunk": None, "explainer": None, "classifier": None}
_LIFTED_FORMS: dict[str, Sizes | None] = {**_FORMS, "integrated": {"positions": (PATH_NODES,)}}
# Stay in shared mode for so long after the last concurrent call, so that a short gap does not switch modes.
_STAY_SHARED_S = 0.5
IDLE_S = 300.0  # graphs that were compiled for a rare need are dropped when that has not come again for so long


@dataclass(frozen=True)
class LiftedBaseline:
    """A baseline, and the inputs of the lifted head that follow from it alone."""

    baseline: FeatureMaps[np.ndarray]
    start: Mapping[str, np.ndarray]


class OpenVINOEngine:
    """Runs the graphs that `training.export.graphs` makes, in float32 on `threads` cores.

    A single call uses all cores. Concurrent calls switch to shared mode, in which each pass of the trunk has its part
    of the cores: it takes longer, but no core waits for another. The trunk for shared mode is compiled in the
    background when calls are concurrent for the first time; until then, they use the one for a single call.
    """

    name = "openvino"
    version = ov.get_version().partition("-")[0]
    batch_size = 1  # on a CPU, a batch is no faster than its pictures one by one

    def __init__(
        self,
        compile_graph: CompileGraph,
        threads: int,
        token_stages: tuple[int, ...],
        has_token_attention: bool,
        is_lifted: bool,
    ) -> None:
        # After each product, numpy's BLAS threads spin on cores that the graphs need: 40 ms more for a trunk pass.
        ThreadpoolController().select(internal_api="openblas").limit(limits=1)
        self.concurrency = 1 if threads == 1 else max(2, threads // 2)
        self.token_stages, self.has_token_attention = token_stages, bool(token_stages) and has_token_attention
        self.is_lifted = is_lifted
        forms = _LIFTED_FORMS if is_lifted else _FORMS
        with ThreadPoolExecutor(min(threads, len(forms)), "compile") as compiling:
            graphs = [compiling.submit(compile_graph, name, 1, sizes) for name, sizes in forms.items()]
        self._exclusive = {name: graph.result() for name, graph in zip(forms, graphs, strict=True)}
        release_heap()
        self._compile_graph = compile_graph
        self._lifted: LiftedBaseline | None = None
        self._shared: Future[Graph | None] | None = None
        self._last_used_s: dict[str, float] = {}  # of the forms that are not compiled at the start
        self._running_calls, self._last_concurrent_s, self._lock, self._compiling = 0, -math.inf, Lock(), Lock()
        self._watched = False

    def encode(self, images: UInt8[np.ndarray, "b h w 3"]) -> FeatureMaps[np.ndarray]:
        """See `Engine.encode`."""
        with self._graph("trunk") as trunk:
            maps = [trunk.run({"images": image[None]}) for image in images]
        return FeatureMaps(
            {branch: np.concatenate([of_one[branch] for of_one in maps]) for branch in BRANCHES if branch in maps[0]}
        )

    def classify(self, maps: FeatureMaps[np.ndarray]) -> Float32[np.ndarray, "b k"]:
        """See `Engine.classify`."""
        with self._graph("classifier") as classifier:
            return classifier.run(maps)["logits"]

    def explain(self, maps: FeatureMaps[np.ndarray], target: Float[np.ndarray, "b k"]) -> HeadResult:
        """See `Engine.explain`."""
        return self._explain(maps, target, np.zeros(target.shape[1]), choose=False)

    def answer(self, maps: FeatureMaps[np.ndarray], bias: Float[np.ndarray, " k"]) -> HeadResult:
        """See `Engine.answer`."""
        pictures = len(next(iter(maps.values())))
        return self._explain(maps, np.zeros((pictures, len(bias))), bias, choose=True)

    def path_evidence(
        self,
        maps: FeatureMaps[np.ndarray],
        baseline: FeatureMaps[np.ndarray],
        positions: Float[np.ndarray, " nodes"],
        targets: Float[np.ndarray, "targets k"],
    ) -> FeatureMaps[np.ndarray]:
        """See `Engine.path_evidence`."""
        ends, further = self._ends(maps, baseline), -len(positions) % PATH_NODES
        parts = np.pad(positions.astype(np.float32), (0, further)).reshape(-1, PATH_NODES)
        evidence: dict[Branch, list[np.ndarray]] = {branch: [] for branch in maps}
        with self._graph("integrated") as integrated:
            for target, nodes in product(targets.astype(np.float32), parts):
                results = integrated.run(ends | {"positions": nodes, "targets": target[None]})
                for branch, of_branch in evidence.items():
                    of_branch.append(results[evidence_output(branch)][:, 0])
        shapes = {branch: (len(targets), parts.size, *maps[branch].shape[1:]) for branch in maps}
        return FeatureMaps(
            {
                branch: np.reshape(of_branch, shapes[branch])[:, : len(positions)].swapaxes(0, 1)
                for branch, of_branch in evidence.items()
            }
        )

    def ablated_logits(
        self,
        maps: FeatureMaps[np.ndarray],
        baseline: FeatureMaps[np.ndarray],
        groups: FeatureMaps[np.ndarray],
    ) -> Float32[np.ndarray, "all_groups k"]:
        """See `Engine.ablated_logits`.

        The graph is compiled at the first call with so many groups and channels. Raises BundleError and EngineError.
        """
        numbers = {channels_input(branch): channels.astype(np.int64) for branch, channels in groups.items()}
        form = f"ablated, {[*groups.map(np.shape).values()]}"
        self._compile(form, "ablated", {name: channels.shape for name, channels in numbers.items()})
        with self._graph(form) as ablated:
            return ablated.run(self._ends(maps, baseline) | numbers)["logits"]

    def compile_tokens(self) -> None:
        """See `Engine.compile_tokens`."""
        self._compile("tokens", "tokens")

    def tokens(self, image: UInt8[np.ndarray, "h w 3"], gradient: Float[np.ndarray, "c gh gw"]) -> TokenResult:
        """See `Engine.tokens`. The graph is compiled at the first call. Raises BundleError and EngineError."""
        self.compile_tokens()
        with self._graph("tokens") as tokens:
            results = tokens.run({"images": image[None], TOKEN_GRADIENT: gradient[None].astype(np.float32)})
        saliency = {height: results[token_output(height)][0] for height in self.token_stages}
        return TokenResult(saliency, results[TOKEN_ATTENTION][0] if self.has_token_attention else None)

    def _explain(
        self,
        maps: FeatureMaps[np.ndarray],
        target: Float[np.ndarray, "b k"],
        bias: Float[np.ndarray, " k"],
        choose: bool,
    ) -> HeadResult:
        inputs = {"target": target, "bias": bias, "choose": np.full(1, choose)}
        with self._graph("explainer") as explainer:
            results = explainer.run(maps | {name: value.astype(np.float32) for name, value in inputs.items()})
        gradients = FeatureMaps({branch: results[gradient_output(branch)] for branch in maps})
        return HeadResult(
            results["logits"], gradients, results.get("attention"), results.get(gradient_output("attention"))
        )

    @contextmanager
    def _graph(self, name: str) -> Iterator[Graph]:
        """The graph for a call. The trunk is the shared one if calls are concurrent and that is compiled."""
        with self._lock:
            self._running_calls += 1
            now = time.monotonic()
            if self._running_calls > 1:
                self._last_concurrent_s = now
            is_shared = now - self._last_concurrent_s < _STAY_SHARED_S
            if is_shared and self.concurrency > 1 and self._shared is None:
                background = ThreadPoolExecutor(1, "compile")
                self._shared = background.submit(self._compile_shared)
                background.shutdown(wait=False)
        try:
            shared = self._shared if name == "trunk" and is_shared else None
            yield (shared.result() if shared is not None and shared.done() else None) or self._exclusive[name]
        finally:
            with self._lock:
                self._running_calls -= 1

    def _ends(self, maps: FeatureMaps[np.ndarray], baseline: FeatureMaps[np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs of the lifted head for the path from a baseline to a picture's maps."""
        ends = {str(branch): values for branch, values in maps.items()}
        ends |= {baseline_input(branch): values for branch, values in baseline.items()}
        lifted = self._lifted
        if lifted is None or any(lifted.baseline[branch] is not values for branch, values in baseline.items()):
            lift = self._compile_graph("lift", 1, None)  # once for a bundle, whose baseline is always the same
            inputs = {baseline_input(branch): values[None] for branch, values in baseline.items()}
            results = lift.run(inputs)
            start = {start_input(branch): results[lifted_output(branch)] for branch in baseline}
            self._lifted = lifted = LiftedBaseline(baseline, start)
        return {**{name: values[None] for name, values in ends.items()}, **lifted.start}

    def _compile(self, form: str, name: str, sizes: Sizes | None = None) -> None:
        """Compile a form of a graph that is not needed from the start, unless that is done."""
        with self._compiling:
            if form not in self._exclusive:
                self._exclusive[form] = self._compile_graph(name, 1, sizes)
                release_heap()
            self._last_used_s[form] = time.monotonic()
        self._watch()

    def _compile_shared(self) -> Graph | None:
        try:
            return self._compile_graph("trunk", self.concurrency, None)
        except (RuntimeError, OSError, FusionLensError):
            _LOG.exception("The graph for concurrent calls could not be compiled: such calls will wait for each other.")
            return None
        finally:
            release_heap()
            self._watch()

    def release_unused(self, idle_s: float) -> bool:
        """Drop the graphs that were compiled for a need that has not come again for `idle_s` seconds.

        They are compiled again when they are needed. Returns whether any are left.
        """
        now = time.monotonic()
        with self._compiling, self._lock:
            for form in [form for form, used_s in self._last_used_s.items() if now - used_s >= idle_s]:
                del self._last_used_s[form], self._exclusive[form]
            if now - self._last_concurrent_s >= idle_s and self._shared is not None and self._shared.done():
                self._shared = None
        release_heap()
        return bool(self._last_used_s) or self._shared is not None

    def _watch(self) -> None:
        """Look from time to time whether graphs can be dropped, as long as there are any."""
        with self._lock:
            if not self._watched:
                self._watched = True
                _release_later(weakref.ref(self))

    def _release(self) -> None:
        with self._lock:
            self._watched = False  # first, so that a graph that is compiled from now on is watched
        if self.release_unused(IDLE_S):
            self._watch()


def _release_later(engine: weakref.ref[OpenVINOEngine]) -> None:
    """Drop unused graphs after a while, unless the engine is gone."""

    def release() -> None:
        if (alive := engine()) is not None:
            alive._release()

    timer = Timer(IDLE_S, release)
    timer.daemon = True
    timer.start()


def openvino_engine(
    trunk: ov.Model, head: ov.Model, lifted: ov.Model | None, tokens: ov.Model | None, threads: int
) -> OpenVINOEngine:
    """An engine for exported graphs in memory. `lifted` and `tokens` are None where there is no such graph."""
    graphs = {
        "trunk": trunk,
        "tokens": tokens,
        "explainer": with_argmax_target(head.clone()),
        "classifier": logits_only(head),
    }
    if lifted is not None:
        graphs |= {"lift": lift_only(lifted), "integrated": integrated_only(lifted), "ablated": logits_only(lifted)}
    names = [port.any_name for port in tokens.outputs] if tokens else []
    stages = tuple(int(name.rpartition("_")[2]) for name in names if name != TOKEN_ATTENTION)
    return OpenVINOEngine(compiler_of(graphs, threads), threads, stages, TOKEN_ATTENTION in names, lifted is not None)


def load_openvino_engine(bundle: Bundle, threads: int, cache: Path | None) -> OpenVINOEngine:
    """Load the engine for a bundle with graphs.

    Compiled graphs are stored in the folder `cache` for the next start. Anyone who can write there can change the
    model. Raises BundleError if the graphs do not match the manifest, and EngineError if the cache cannot be used.
    """
    compiler = BundleCompiler(bundle, threads, cache)
    manifest = bundle.manifest
    is_lifted = LIFTED[0] in manifest.files
    engine = OpenVINOEngine(compiler, threads, manifest.token_stages, manifest.token_attention, is_lifted)
    compiler.forget()
    return engine
