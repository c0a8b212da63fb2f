"""What every engine owes its callers. A new engine joins by its name in `ENGINES`."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from app.bundles.manifest import Decision
from app.drawing.png import encode_png
from app.engines.heap import release_heap
from app.engines.load import load_engine
from app.engines.protocol import Engine, EngineKind, HeadResult
from app.explain.cam import gradcam
from app.explain.integrated import gauss_patterson
from app.models.feature_maps import Branch, FeatureMaps, batched, to_float32, unbatched
from app.pictures.decode import Limits
from app.predicting.predictor import Predictor
from app.predicting.request import HeatmapRequest
from tests.support.bundles import BRANCHES
from tests.support.engine_cases import EACH_CASE, LINEAR, Case, autograd_through_the_whole_model

ENGINES: tuple[EngineKind, ...] = ("torch", "openvino")
CROSS_ATTENTION = "cross_attention"
TARGETS = np.random.default_rng(12).standard_normal((3, 5)).astype(np.float32)  # one a picture
OF_THE_HEAD = ("classifier.weight", "classifier.bias", "projection.weight", "projection.bias")  # of one such branch


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest) -> EngineKind:
    chosen: EngineKind = request.param
    return chosen


def each_case(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test for every engine with each of its cases, `case_name`."""
    mark: Callable[[Callable[..., None]], Callable[..., None]] = pytest.mark.parametrize(
        ("kind", "case_name"), EACH_CASE
    )
    return mark(test)


@pytest.fixture
def case(case_name: str, case_of: Callable[[str], Case]) -> Case:
    return case_of(case_name)


@pytest.fixture
def main_case(case_of: Callable[[str], Case]) -> Case:
    """The tiny cross-attention model with 5 classes."""
    return case_of(CROSS_ATTENTION)


@each_case
def test_the_cams_from_the_cut_are_those_of_autograd_through_the_whole_model(case: Case, kind: EngineKind) -> None:
    engine = case.engine(kind)
    maps = engine.encode(case.images[:1])
    for index, target in enumerate(np.eye(case.classes, dtype=np.float32)):
        result = engine.explain(maps, target[None])
        whole = autograd_through_the_whole_model(case, index)
        assert set(arrays(result)) == set(whole.gradients) | {"logits"} | ({"attention"} & whole.sources.keys())
        for branch, feature_map in maps.items():
            from_cut = gradcam(feature_map, result.gradients[branch])
            weights = whole.gradients[f"{branch}_gradient"].mean(dim=(2, 3), keepdim=True)
            expected = (weights * whole.sources[branch]).sum(dim=1).numpy()
            assert_close(from_cut, expected, 1e-5)
        for name, gradient in whole.gradients.items():
            assert_close(arrays(result)[name], gradient.numpy(), 1e-5)
        if (attention := whole.sources.get("attention")) is not None:
            assert_close(result.attention, attention.numpy(), 1e-5)
        # Relative to a tenth of a logit at least, as the completeness error is: the largest logit may be near 0.
        logits = whole.logits.numpy()
        np.testing.assert_allclose(result.logits, logits, rtol=0, atol=1e-5 * max(0.1, np.abs(logits).max()))


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_head_of_one_mean_and_one_linear_layer_has_the_closed_form_map(
    branch: Branch, kind: EngineKind, case_of: Callable[[str], Case]
) -> None:
    case = case_of(f"{LINEAR}{branch}-seed-3")
    stored = {name: case.bundle.tensors[f"head.branches.{branch}.{name}"].astype(np.float64) for name in OF_THE_HEAD}
    weights = stored["classifier.weight"] @ stored["projection.weight"]
    biases = stored["classifier.weight"] @ stored["projection.bias"] + stored["classifier.bias"]

    engine = case.engine(kind)
    maps = engine.encode(case.images[:1])
    activation = maps[branch][0].astype(np.float64)
    for k, target in enumerate(np.eye(5, dtype=np.float32)):
        result = engine.explain(maps, target[None])
        heatmap = gradcam(maps[branch][0], result.gradients[branch][0])
        assert_close(heatmap, np.tensordot(weights[k], activation, 1) / activation[0].size, 1e-5)
        assert heatmap.sum() + biases[k] == pytest.approx(result.logits[0, k], abs=1e-5)


@each_case
def test_classify_gives_the_logits_of_explain(case: Case, kind: EngineKind) -> None:
    engine = case.engine(kind)
    maps = engine.encode(case.images)
    explained = engine.explain(maps, np.ones((3, case.classes), np.float32))
    logits = engine.classify(maps)
    np.testing.assert_array_equal(logits, explained.logits)
    assert np.ptp(logits, axis=0).min() > 1e-4


def test_gradients_are_linear_in_the_target(main_case: Case, kind: EngineKind) -> None:
    engine = main_case.engine(kind)
    maps = engine.encode(main_case.images)
    other = np.roll(TARGETS, 1, axis=0)
    one, two, both = (arrays(engine.explain(maps, target)) for target in (TARGETS, other, 3 * TARGETS - 2 * other))
    for name in ("cnn_gradient", "swin_gradient", "attention_gradient"):
        assert_close(both[name], 3 * one[name] - 2 * two[name], 1e-5)
    for name in ("logits", "attention"):
        np.testing.assert_array_equal(both[name], one[name])
    nothing = engine.explain(maps, np.zeros_like(TARGETS))
    assert not any(values.any() for name, values in arrays(nothing).items() if name.endswith("gradient"))


@each_case
def test_a_batch_equals_its_singles(case: Case, kind: EngineKind) -> None:
    engine = case.engine(kind)
    targets = TARGETS[:, : case.classes]
    maps = engine.encode(case.images)
    batch = arrays(engine.explain(maps, targets))
    for i in range(3):
        single_maps = engine.encode(case.images[i : i + 1])
        for branch, feature_map in maps.items():
            assert_close(single_maps[branch][0], feature_map[i], 1e-5)
        for name, values in arrays(engine.explain(single_maps, targets[i : i + 1])).items():
            assert_close(values[0], batch[name][i], 1e-5)


def test_the_same_question_gets_the_same_answer_to_the_bit(main_case: Case, kind: EngineKind) -> None:
    def ask(engine: Engine) -> dict[str, np.ndarray]:
        maps = engine.encode(main_case.images)
        return maps | arrays(engine.explain(maps, TARGETS))

    engine = main_case.engine(kind)
    first, again, by_another = ask(engine), ask(engine), ask(main_case.new_engine(kind))
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values)
        np.testing.assert_array_equal(by_another[name], values)


def test_no_call_changes_what_was_asked_or_answered_before(main_case: Case, kind: EngineKind) -> None:
    engine = main_case.engine(kind)
    images, targets = main_case.images, TARGETS.copy()
    maps = engine.encode(images)
    held: dict[str, np.ndarray] = {"images": images, "targets": targets} | maps
    before = {name: values.copy() for name, values in held.items()}
    result = arrays(engine.explain(maps, targets))
    held, before = held | result, before | {name: values.copy() for name, values in result.items()}
    engine.explain(engine.encode(255 - images), -targets)
    for name, values in held.items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)


def test_eight_threads_at_once_get_the_answers_of_one(main_case: Case, kind: EngineKind) -> None:
    engine = main_case.engine(kind)
    together = threading.Barrier(8)

    def ask(i: int) -> dict[str, np.ndarray]:
        maps = engine.encode(np.roll(main_case.images, i, axis=1))
        return maps | arrays(engine.explain(maps, np.roll(TARGETS, i, axis=1)))

    def ask_at_once(i: int) -> list[dict[str, np.ndarray]]:
        together.wait(timeout=60)
        return [ask(i) for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask_at_once, range(8)))
    for i, of_thread in enumerate(answers):
        alone = ask(i)
        for answer in of_thread:
            for name, values in alone.items():
                # Not to the bit: on fewer cores a trunk may add up in another order.
                assert_close(answer[name], values, 1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="SKIPPED LOUDLY: no /proc to read memory use from")
def test_two_thousand_explanations_leave_memory_as_it_was(main_case: Case, kind: EngineKind) -> None:
    engine = main_case.engine(kind)
    maps = engine.encode(main_case.images)
    maps_of_one, baseline = islice(unbatched(maps), 2)

    def explain(times: int) -> None:
        for n in range(times):
            size = 1 + n % 3
            some = FeatureMaps({branch: feature_map[:size] for branch, feature_map in maps.items()})
            engine.explain(some, TARGETS[:size])
            engine.path_evidence(maps_of_one, baseline, gauss_patterson(15).positions, TARGETS[:1])
            if n % 100 == 0:
                engine.encode(main_case.images[:size])

    explain(300)  # whatever is made once, for batches of every size
    measured = [resident_bytes()]
    for _ in range(4):
        explain(500)
        measured.append(resident_bytes())
    # A leak grows in each round; what other threads of this process take, or allocators keep, does not.
    assert min(after - before for before, after in pairwise(measured)) < 2_500_000, measured


def test_pictures_predicted_together_get_the_answers_of_each_alone(main_case: Case, kind: EngineKind) -> None:
    predictor = Predictor(main_case.bundle, main_case.engine(kind), Limits(), preview_side_px=64)
    uploads = [predictor.open(encode_png(image)) for image in main_case.images]
    together = [prediction for prediction, _ in predictor.predict_batch(uploads)]
    for upload, of_batch in zip(uploads, together, strict=True):
        alone, _ = predictor.predict(upload)
        # A batch may add up in another order, and a last bit can round a map's value to the next that fp16 has.
        np.testing.assert_allclose(of_batch.logits, alone.logits, rtol=0, atol=1e-4)
        for branch, feature_map in alone.maps.items():
            np.testing.assert_allclose(of_batch.maps[branch], feature_map, rtol=2**-10, atol=1e-5)
        assert of_batch.upload is alone.upload is upload
        assert predictor.answer(of_batch).label == predictor.answer(alone).label
    assert np.ptp([prediction.logits for prediction in together], axis=0).min() > 1e-3


@each_case
def test_an_answer_explains_the_class_with_the_highest_logit_and_bias(case: Case, kind: EngineKind) -> None:
    engine = case.engine(kind)
    maps = engine.encode(case.images)
    logits = engine.classify(maps)
    chosen = set()
    for bias in (np.zeros(case.classes), *100 * np.eye(case.classes), *-100 * np.eye(case.classes)):
        answered = (logits + bias).argmax(axis=1)
        chosen |= {*answered.tolist()}
        found = arrays(engine.answer(maps, bias.astype(np.float32)))
        expected = arrays(engine.explain(maps, np.eye(case.classes, dtype=np.float32)[answered]))
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert len(chosen) == case.classes


@pytest.mark.parametrize("threshold", [None, 0.01, 0.99, "at the answer's own probability"])
def test_explained_with_the_answer_or_later_the_heatmaps_are_the_same(
    case_of: Callable[[str], Case], kind: EngineKind, threshold: float | str | None
) -> None:
    case = case_of("demo")
    # With the bundle's own graphs: here nothing is compared with the module.
    manifest, engine = case.bundle.manifest, load_engine(case.bundle, kind)
    predictor = Predictor(case.bundle, engine, Limits(), preview_side_px=64)
    upload = predictor.open(encode_png(case.images[0]))
    if isinstance(threshold, str):
        threshold = predictor.answer(predictor.predict(upload)[0]).probabilities["malignant"]
    decision = None if threshold is None else Decision(positive="malignant", threshold=threshold, chosen_on="nothing")
    bundle = replace(case.bundle, manifest=manifest.model_copy(update={"decision": decision}))
    predictor = Predictor(bundle, engine, Limits(), preview_side_px=64)
    (with_answer, _), (later, _) = predictor.predict(upload, with_gradient=True), predictor.predict(upload)
    # Where two classes are as good as tied, which one was explained is left open, so it is computed anew.
    assert (with_answer.gradient is None) == (threshold not in (None, 0.01, 0.99))
    assert later.gradient is None
    np.testing.assert_array_equal(with_answer.logits, later.logits)
    assert predictor.answer(with_answer) == predictor.answer(later)
    for view in predictor.capabilities.views:
        for target, against in ((None, None), ("benign", None), ("malignant", None), ("benign", "malignant")):
            question = HeatmapRequest((view,), "hirescam", target, against)
            found, expected = (predictor.explain_one(prediction, question) for prediction in (with_answer, later))
            assert found.target == expected.target
            np.testing.assert_array_equal(found.heatmap, expected.heatmap)


@each_case
def test_an_answer_and_its_later_explanation_rest_on_the_same_numbers(case: Case, kind: EngineKind) -> None:
    engine = case.engine(kind)
    predictor = Predictor(case.bundle, engine, Limits(), preview_side_px=64)
    upload = predictor.open(encode_png(case.images[0]))
    prediction, _ = predictor.predict(upload)
    kept = batched([prediction.maps.map(to_float32)])
    later = engine.explain(kept, np.ones((1, case.classes), np.float32))
    np.testing.assert_array_equal(prediction.logits, later.logits[0])
    unrounded = engine.classify(engine.encode(upload.image[None]))[0]
    assert 0 < np.abs(prediction.logits - unrounded).max() < 1e-2


def arrays(result: HeadResult) -> dict[str, np.ndarray]:
    """What there is in a result, by name."""
    of_branches = {f"{branch}_gradient": gradient for branch, gradient in result.gradients.items()}
    others = {name: values for name, values in vars(result).items() if name != "gradients" and values is not None}
    return others | of_branches


def assert_close(found: np.ndarray | None, expected: np.ndarray, tolerance: float) -> None:
    """Equal within `tolerance`, relative to the largest expected value."""
    assert found is not None and found.dtype == np.float32 and found.shape == expected.shape
    largest = np.abs(expected).max()
    assert largest > 0
    np.testing.assert_allclose(found / largest, expected / largest, rtol=0, atol=tolerance)


def resident_bytes() -> int:
    """Memory of this process that is in RAM, without what tests before have freed and may be used again."""
    gc.collect()
    release_heap()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
