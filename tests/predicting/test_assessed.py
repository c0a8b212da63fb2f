"""An assessment is a function of the prediction: the same from every engine and store, for permuted classes too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.bundles.manifest import ReasonCode
from app.bundles.reader import read_bundle
from app.drawing.png import encode_png
from app.engines.load import load_engine
from app.engines.protocol import EngineKind
from app.errors import ModelGone
from app.pictures.decode import Limits
from app.predicting.predictor import Predictor
from app.serving.stores.redis import from_bytes, to_bytes
from app.trust.assessment import Evidence, assess
from app.trust.fitted import trust_of
from tests.support.trusted import scenes, write_trusted

KINDS: tuple[EngineKind, ...] = ("torch", "openvino")


@pytest.fixture(scope="module")
def trusted(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trusted(tiny_bundle, tmp_path_factory.mktemp("trusted") / "bundle")


@pytest.fixture(scope="module")
def predictors(trusted: Path) -> dict[EngineKind, Predictor]:
    bundle = read_bundle(trusted)
    return {kind: Predictor(bundle.without_weights(), load_engine(bundle, kind), Limits(), 64) for kind in KINDS}


def test_engines_and_stores_give_the_same_assessment(predictors: dict[EngineKind, Predictor]) -> None:
    for picture in scenes(6, 9):
        found = []
        for predictor in predictors.values():
            prediction, _ = predictor.predict(predictor.open(encode_png(picture)))
            kept, _, _ = from_bytes(to_bytes(prediction, "", 1))
            assert predictor.assess(kept) == predictor.assess(prediction)
            assessment = predictor.assess(prediction)
            assert assessment is not None
            found.append(assessment)
        torch, openvino = found
        assert torch.decision == openvino.decision and torch.prediction_set == openvino.prediction_set
        assert torch.novelty_percentile == pytest.approx(openvino.novelty_percentile, abs=5)


def test_a_prediction_of_another_bundle_is_not_assessed(predictors: dict[EngineKind, Predictor]) -> None:
    predictor = predictors["torch"]
    prediction, _ = predictor.predict(predictor.open(encode_png(scenes(1, 9)[0])))
    with pytest.raises(ModelGone):
        predictor.assess(replace(prediction, bundle_sha256="0" * 64))


def _codes(trusted: Path, logits: tuple[float, float], refers: tuple[ReasonCode, ...]) -> tuple[str, list[str]]:
    bundle = read_bundle(trusted)
    fitted, rule = trust_of(bundle), bundle.manifest.trust
    assert fitted is not None and rule is not None
    sets = replace(fitted.sets, scores=(np.linspace(0, 0.6, 99), np.linspace(0, 0.3, 99)))
    features = {branch: one.mean for branch, one in fitted.novelty.branches.items()}
    evidence = Evidence(np.array(logits), features, "benign", 1.0, ())
    rule = rule.model_copy(update={"near_gap": 0.0, "refers": refers})
    found = assess(rule, replace(fitted, sets=sets), bundle.manifest.classes, evidence, 0.9)
    return found.decision, [reason.code for reason in found.reasons]


@pytest.mark.parametrize(
    ("logits", "code"),
    [((5.0, 0.0), None), ((0.0, 5.0), "contradicts_label"), ((0.0, 0.0), None), ((0.0, 0.5), "no_class")],
)
def test_empty_and_contradicting_sets_are_named(trusted: Path, logits: tuple[float, float], code: str | None) -> None:
    # benign is possible from a probability of 0.46 on, and malignant from 0.73 on.
    decision, codes = _codes(trusted, logits, ("contradicts_label", "no_class"))
    assert codes == ([code] if code else []) and decision == ("refer" if code else "answer")
    assert _codes(trusted, logits, ())[0] == "answer"  # the rule decides which reasons refer
