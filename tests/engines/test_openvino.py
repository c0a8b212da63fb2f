"""What only the OpenVINO engine must hold: torch's answers, no graphs but the bundle's own, and a safe cache."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from app.bundles.graph_names import GRAPHS, LIFTED, TOKENS
from app.bundles.reader import Bundle, read_bundle
from app.engines.compiled import _write_atomically
from app.engines.load import load_engine
from app.engines.openvino import OpenVINOEngine, openvino_engine
from app.engines.protocol import Engine, EngineKind
from app.errors import BundleError, EngineError
from app.explain.cam import gradcam
from app.models.feature_maps import FeatureMaps, unbatched
from app.pictures.decode import Limits, decode
from app.pictures.prepare import prepare
from app.shapes import UInt8
from tests.support.asking import png_bytes
from tests.support.engine_cases import EACH_OPENVINO_CASE, Case
from tests.support.served_process import ROOT

Answers = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return read_bundle(tiny_bundle)


def pictures(size: tuple[int, ...]) -> UInt8[np.ndarray, "n h w 3"]:
    """Soft pictures, and noise."""
    soft = [
        prepare(decode(png_bytes(*sides), Limits()), (size[0], size[1])).image
        for sides in ((96, 64), (300, 200), (64, 96))
    ]
    return np.stack([*soft, np.random.default_rng(3).integers(0, 256, (*size, 3), np.uint8)])


def answers(engine: Engine, images: UInt8[np.ndarray, "n h w 3"], classes: int) -> Answers:
    """Maps, logits, and the Grad-CAM of every branch for every class."""
    maps = engine.encode(images)
    found: Answers = {"logits": engine.classify(maps)} | maps
    for k, target in enumerate(np.eye(classes, dtype=np.float32)):
        result = engine.explain(maps, np.tile(target, (len(images), 1)))
        for branch, feature_map in maps.items():
            found[f"{branch} for class {k}"] = gradcam(feature_map, result.gradients[branch])
    return found | lifted_answers(engine, maps, classes)


def lifted_answers(engine: Engine, maps: FeatureMaps[np.ndarray], classes: int) -> Answers:
    """Integrated gradients of the first picture against the second, and its logits without some channels."""
    assert engine.is_lifted
    maps, baseline = islice(unbatched(maps), 2)
    nodes, targets = np.linspace(0, 1, 17), np.eye(classes, dtype=np.float32)  # more than go into one run
    evidence = engine.path_evidence(maps, baseline, nodes, targets)
    channels = maps.map(lambda feature_map: np.array([[0, 1, 2], [5, len(feature_map), len(feature_map)]]))
    ablated = engine.ablated_logits(maps, baseline, channels)
    return {f"{branch} evidence": values for branch, values in evidence.items()} | {"ablated": ablated}


@pytest.mark.parametrize(("kind", "case_name"), EACH_OPENVINO_CASE)
def test_its_answers_are_torchs(kind: EngineKind, case_name: str, case_of: Callable[[str], Case]) -> None:
    case = case_of(case_name)
    images = pictures(case.model.image_size)
    by_torch, found = (answers(case.engine(each), images, case.classes) for each in ("torch", kind))
    assert found.keys() == by_torch.keys()
    np.testing.assert_allclose(found.pop("logits"), by_torch["logits"], rtol=0, atol=1e-4)
    for name, values in found.items():
        for of_picture, expected in zip(values, by_torch[name], strict=True):
            np.testing.assert_allclose(of_picture, expected, rtol=0, atol=1e-3 * np.abs(expected).max(), err_msg=name)


@pytest.mark.parametrize(("kind", "case_name"), EACH_OPENVINO_CASE)
def test_storing_graphs_in_fp16_hardly_moves_their_answers(
    kind: EngineKind, case_name: str, case_of: Callable[[str], Case]
) -> None:
    case = case_of(case_name)
    stored = load_engine(case.compiled, kind)
    images = pictures(case.model.image_size)
    before, found = (answers(engine, images, case.classes) for engine in (case.engine(kind), stored))
    np.testing.assert_allclose(found["logits"], before["logits"], rtol=0, atol=1e-2)
    assert (found["logits"].argmax(axis=1) == before["logits"].argmax(axis=1)).all()
    for name, values in found.items():
        np.testing.assert_allclose(values, before[name], rtol=0, atol=1e-2 * np.abs(before[name]).max(), err_msg=name)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_on_any_number_of_cores_alone_or_beside_others_the_answers_are_the_same(
    threads: int, case_of: Callable[[str], Case]
) -> None:
    case = case_of("cross_attention")
    engine = openvino_engine(*case.graphs, threads)
    images = pictures(case.model.image_size)
    expected = case.engine("openvino").encode(images)
    assert 1 <= engine.concurrency <= threads
    with ThreadPoolExecutor(4) as callers:
        beside_others = list(callers.map(lambda _: engine.encode(images), range(8)))
        if threads > 1:  # the first of these had them compile a trunk of their own
            assert engine._shared is not None
            assert engine._shared.result(timeout=60) is not None
        beside_others += callers.map(lambda _: engine.encode(images), range(8))
    for maps in (engine.encode(images), *beside_others):
        for branch, values in expected.items():
            # Not to the bit: on another number of cores sums may run in another order.
            np.testing.assert_allclose(maps[branch], values, rtol=0, atol=1e-5 * np.abs(values).max())


def test_where_a_second_form_of_the_graphs_cannot_be_had_calls_go_on_with_the_first(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = load_engine(bundle, "openvino", threads=2, cache=tmp_path)
    images = pictures((bundle.manifest.input.height_px, bundle.manifest.input.width_px))
    expected = engine.encode(images)
    for blob in tmp_path.iterdir():
        broken = tmp_path / "broken"
        broken.write_bytes(b"not a graph")
        broken.replace(blob)
    with ThreadPoolExecutor(4) as callers:
        found = [*callers.map(lambda _: engine.encode(images), range(100))]
    assert "could not be compiled" in caplog.text
    for maps in found:
        for branch, values in expected.items():
            np.testing.assert_array_equal(maps[branch], values)


@pytest.mark.slow
def test_graphs_that_were_needed_for_a_while_are_dropped_and_made_again(bundle: Bundle) -> None:
    engine = load_engine(bundle, "openvino", threads=2)
    assert isinstance(engine, OpenVINOEngine)
    images = pictures((64, 64))
    gradient = np.ones(bundle.manifest.map_shapes["swin"], np.float32)

    def ask() -> Answers:
        tokens = {f"tokens {height}": values for height, values in engine.tokens(images[0], gradient).saliency.items()}
        return answers(engine, images, 2) | tokens

    expected = ask()
    with ThreadPoolExecutor(4) as callers:
        [*callers.map(engine.encode, [images] * 8)]
    assert engine._shared is not None
    engine._shared.result(timeout=60)
    assert engine.release_unused(idle_s=3600.0)  # all of them were needed less than an hour ago
    assert engine._shared is not None and len(engine._last_used_s) == 2
    assert not engine.release_unused(idle_s=0.0)
    assert engine._shared is None and engine._exclusive.keys() == {"trunk", "explainer", "classifier", "integrated"}
    for name, values in ask().items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-5 * np.abs(values).max(), err_msg=name)


Files = dict[str, bytes]
# What is in a bundle instead of its own graphs, made of these and of another bundle's; and the file to blame.
NOT_ITS_OWN: dict[str, tuple[str, Callable[[Files, Bundle], Files]]] = {
    "a head for more classes": ("head.xml", lambda own, other: own | part(other.graphs, "head")),
    "the head for a trunk": ("trunk.xml", lambda own, other: own | renamed(own, "head", "trunk")),
    "half a trunk": ("trunk.xml", lambda own, other: own | halved(own, "trunk.xml")),
    "half a head": ("head.xml", lambda own, other: own | halved(own, "head.xml")),
    "a lifted head for more classes": ("lifted.xml", lambda own, other: own | part(other.graphs, "lifted")),
    "the head for a lifted head": ("lifted.xml", lambda own, other: own | renamed(own, "head", "lifted")),
    "half a lifted head": ("lifted.xml", lambda own, other: own | halved(own, "lifted.xml")),
    "half a trunk's numbers": ("trunk.xml", lambda own, other: own | halved(own, "trunk.bin")),
    "no numbers": ("head.xml", lambda own, other: own | {"head.bin": b""}),
    "nothing": ("trunk.xml", lambda own, other: own | {"trunk.xml": b""}),
}


def part(files: Mapping[str, bytes], name: str) -> Files:
    return {f"{name}.{end}": files[f"{name}.{end}"] for end in ("xml", "bin")}


def renamed(files: Mapping[str, bytes], old: str, new: str) -> Files:
    return {f"{new}.{end}": files[f"{old}.{end}"] for end in ("xml", "bin")}


def halved(files: Mapping[str, bytes], name: str) -> Files:
    return {name: files[name][: len(files[name]) // 2]}


@pytest.mark.parametrize("what", NOT_ITS_OWN)
def test_graphs_that_are_not_the_bundles_are_refused_by_the_files_name(
    what: str, bundle: Bundle, case_of: Callable[[str], Case]
) -> None:
    name, make = NOT_ITS_OWN[what]
    graphs = make(dict(bundle.graphs), case_of("cross_attention").compiled)
    with pytest.raises(BundleError, match=rf"^{name}: (takes .* compile it again|is not a graph that OpenVINO)"):
        load_engine(replace(bundle, graphs=graphs), "openvino")


def test_the_trunk_of_a_model_with_other_branches_is_refused(bundle: Bundle, case_of: Callable[[str], Case]) -> None:
    graphs = dict(bundle.graphs) | part(case_of("cnn").compiled.graphs, "trunk")
    with pytest.raises(BundleError, match=r"^trunk\.xml: has no output swin"):
        load_engine(replace(bundle, graphs=graphs), "openvino")


def test_the_next_start_reads_the_cache_and_answers_the_same_to_the_bit(bundle: Bundle, tmp_path: Path) -> None:
    images = pictures((64, 64))
    expected = answers(load_engine(bundle, "openvino"), images, 2)
    contents, cache = [], tmp_path / "a new" / "cache"
    for _ in range(2):
        found = answers(load_engine(bundle, "openvino", cache=cache), images, 2)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
        contents.append({file: file.stat().st_mtime_ns for file in cache.iterdir()})
    assert contents[0] and contents[1] == contents[0]


@pytest.mark.slow
def test_a_cache_serves_several_bundles_and_numbers_of_cores(
    bundle: Bundle, case_of: Callable[[str], Case], tmp_path: Path
) -> None:
    images = pictures((64, 64))
    for one in (bundle, case_of("cross_attention").compiled):
        expected = load_engine(one, "openvino").encode(images)
        for threads in (1, 3):
            found = load_engine(one, "openvino", threads, tmp_path).encode(images)
            for branch, values in expected.items():
                np.testing.assert_allclose(found[branch], values, rtol=0, atol=1e-5 * np.abs(values).max())


def open_files() -> int:
    """How many files and connections this process has open."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("SKIPPED LOUDLY: this system does not say which files a process has open")
    gc.collect()  # an engine keeps its graphs' files open as long as it lives
    return len(list(folder.iterdir()))


@pytest.mark.slow
def test_a_cache_leaves_no_file_open(bundle: Bundle, tmp_path: Path) -> None:
    load_engine(bundle, "openvino", cache=tmp_path / "first")  # whatever is opened once and for all
    before = open_files()
    for n in range(3):
        for _ in ("written", "read"):
            load_engine(bundle, "openvino", cache=tmp_path / f"cache {n}")
    assert open_files() <= before


def test_a_file_of_the_cache_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "graph.blob").mkdir()
    before = open_files()
    for _ in range(3):
        with pytest.raises(IsADirectoryError):
            _write_atomically(tmp_path / "graph.blob", b"a graph")
    assert open_files() <= before and [file.name for file in tmp_path.iterdir()] == ["graph.blob"]
    assert _write_atomically(tmp_path / "other.blob", b"a graph")
    assert open_files() <= before and (tmp_path / "other.blob").read_bytes() == b"a graph"


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_damaged_cache_is_refused_with_what_to_do(bundle: Bundle, tmp_path: Path, kept: float) -> None:
    load_engine(bundle, "openvino", cache=tmp_path)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    with pytest.raises(EngineError, match=r"(?s)\.blob cannot be used .*: delete it"):
        load_engine(bundle, "openvino", cache=tmp_path)


@pytest.mark.parametrize("below", [".", "folder"])
def test_a_cache_that_cannot_be_written_is_refused_with_its_folder(bundle: Bundle, tmp_path: Path, below: str) -> None:
    (tmp_path / "a file").write_text("no folder")
    cache = tmp_path / "a file" / below
    with pytest.raises(EngineError, match=r"The cache folder .*a file.* cannot be used .*: choose another"):
        load_engine(bundle, "openvino", cache=cache)


def test_a_bundle_without_graphs_is_refused_with_the_command_that_makes_them(bundle: Bundle) -> None:
    assert set(bundle.graphs) == {*GRAPHS, *LIFTED, TOKENS}
    with pytest.raises(EngineError, match=r"fusionlens-train compile BUNDLE OUT"):
        load_engine(replace(bundle, graphs={}), "openvino")


GONE_IN_ANY_ORDER = """
import faulthandler, gc, os, signal, sys
from pathlib import Path
from app.bundles.reader import read_bundle
from app.engines.load import load_engine

faulthandler.enable()
bundle = read_bundle(Path(sys.argv[1]))
engines = [load_engine(bundle, "openvino") for _ in range(3)]
while engines:
    del engines[0]
    gc.collect()
signal.signal(signal.SIGTERM, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_finds_a_process_whole_whose_engines_are_gone(tiny_bundle: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", GONE_IN_ANY_ORDER, tiny_bundle], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stdout) == (0, "heard\n"), run.stderr
