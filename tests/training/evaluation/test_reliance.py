"""What evaluate says of a bundle's trust part, and of one bundle against another."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta

from app.bundles.manifest import Decision
from app.bundles.reader import read_bundle
from tests.support.bundles import describe, tiny_model, tiny_reference
from tests.support.evaluated import Evaluated, evaluated, predictor_of
from tests.support.trusted import write_trusted
from training.cli import main
from training.data.samples import DataError
from training.evaluation.against import Against
from training.evaluation.evaluate import evaluate
from training.evaluation.metric_values import MetricValue
from training.evaluation.reliance import Count
from training.export.export import write_bundle


@pytest.fixture(scope="module", autouse=True)
def fewer_resamples() -> Iterator[None]:
    """What is looked at here does not depend on how many there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.evaluation.evaluate.REPEATS", 50)
        yield


@pytest.fixture(scope="module")
def trusted(tiny_bundle: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """The evaluation of a bundle with a trust part, whose model has learnt nothing."""
    folder = tmp_path_factory.mktemp("trusted")
    return evaluated(write_trusted(tiny_bundle, folder / "bundle"), drawn, None, folder / "out")


def test_figures_of_trust_are_counted_from_what_the_service_says(trusted: Evaluated) -> None:
    predictor, rows, found = predictor_of(trusted.bundle), trusted.document["pictures"], trusted.document["trust"]
    uploads = [predictor.open((trusted.data / row["path"]).read_bytes()) for row in rows]
    said = [predictor.assess(predictor.predict(upload)[0]) for upload in uploads]
    assessments = [one for one in said if one is not None]
    assert len(assessments) == len(rows) == 12
    for name, count in found["covered"].items():
        holds = [name in one.prediction_set for one, row in zip(assessments, rows, strict=True) if row["label"] == name]
        assert (count["count"], count["pictures"]) == (sum(holds), len(holds))
    assert found["coverage"] == assessments[0].coverage
    assert found["mean_classes"] == pytest.approx(np.mean([len(one.prediction_set) for one in assessments]))
    assert found["reasons"] == Counter(reason.code for one in assessments for reason in one.reasons)
    wrong = np.array([row["answer"] != row["label"] for row in rows])
    referred = np.array([one.decision == "refer" for one in assessments])
    assert found["referred"]["count"] == referred.sum() > 0
    counts = {name: (count["count"], count["pictures"]) for name, count in found["wrong"].items()}
    assert counts["referred"] == (wrong[referred].sum(), referred.sum())
    assert counts["answered"] == (wrong[~referred].sum(), (~referred).sum())
    assert counts["all"] == (wrong.sum(), 12)
    for name, text in trusted.returned.reliance.rows() if trusted.returned.reliance else [("none", "")]:
        assert name in trusted.html and text in trusted.html and f"  {name:46} {text}" in trusted.returned.text()


def test_a_bundle_without_trust_part_has_no_such_figures(tiny_bundle: Path, drawn: Path, tmp_path: Path) -> None:
    plain = evaluated(tiny_bundle, drawn, None, tmp_path)
    assert plain.document["trust"] is None and plain.document["against"] is None
    assert "<h2>Trust</h2>" not in plain.html


@pytest.mark.parametrize(("count", "pictures"), [(0, 10), (10, 10), (3, 20), (199, 200)])
def test_the_interval_of_a_share_is_the_exact_binomial_one(count: int, pictures: int) -> None:
    low = beta.ppf(0.025, count, pictures - count + 1) if count else 0
    high = beta.ppf(0.975, count + 1, pictures - count) if count < pictures else 1
    assert Count(count, pictures).interval == pytest.approx((low, high))


def test_a_share_of_nothing_is_none() -> None:
    assert Count(0, 0).document() == {"count": 0, "pictures": 0, "share": None, "low": 0.0, "high": 1.0}
    assert Count(0, 0).text == "of no pictures"


def other_bundle(path: Path, **changed: Any) -> Path:
    """A tiny bundle of another seed, whose description is changed."""
    model = tiny_model(seed=5)
    write_bundle(model, path, describe().model_copy(update=changed), tiny_reference(model), {}, None)
    return path


OF_BENIGN = Decision(positive="benign", threshold=0.4, chosen_on="nothing")


@pytest.mark.parametrize("changed", [{}, {"classes": ("malignant", "benign")}], ids=["same order", "other order"])
def test_a_bundle_against_another_is_the_difference_of_their_own_evaluations(
    tiny_bundle: Path, drawn: Path, tmp_path: Path, changed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    other = other_bundle(tmp_path / "other", **changed)
    one, alone = (evaluated(each, drawn, None, tmp_path / each.name / "out") for each in (tiny_bundle, other))
    out = tmp_path / "both"
    assert main(["evaluate", str(tiny_bundle), str(drawn), "--against", str(other), "--out", str(out)]) == 0
    document = json.loads((out / "evaluation.json").read_text())
    assert document["against"]["bundle"]["sha256"] == alone.document["bundle"]["sha256"]
    assert document | {"against": None} == one.document
    differences = document["against"]["differences"]
    assert differences.keys() == one.document["figures"].keys()
    said, page = capsys.readouterr().out, (out / "report.html").read_text()
    for name, difference in differences.items():
        a, b = (each.document["figures"][name]["value"] for each in (one, alone))
        assert difference["value"] == pytest.approx(a - b, abs=1e-12)
        text = f"{difference['value']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})"
        assert text in said and text in page


def test_a_bundle_against_itself_shows_no_difference(tiny_bundle: Path, drawn: Path, tmp_path: Path) -> None:
    found = evaluate(tiny_bundle, drawn, None, tmp_path, tiny_bundle).against
    assert found is not None
    for name, difference in found.differences.items():
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)
        assert found.verdict(name) == "no difference shown"


@pytest.mark.parametrize(
    ("name", "bounds", "verdict"),
    [
        ("auroc", (0.01, 0.1), "better"),
        ("auroc", (-0.1, -0.01), "worse"),
        ("nll", (0.01, 0.1), "worse"),
        ("error_at_coverage_0.8", (-0.1, -0.01), "better"),
        ("auroc", (-0.01, 0.1), "no difference shown"),
        ("auroc", (0.0, 0.1), "no difference shown"),
        ("auroc", (None, None), "no difference shown"),
    ],
)
def test_a_difference_is_named_in_the_direction_of_its_metric(
    tiny_bundle: Path, name: str, bounds: tuple[float | None, float | None], verdict: str
) -> None:
    assert Against(read_bundle(tiny_bundle).manifest, "", {name: MetricValue(0.05, *bounds)}).verdict(name) == verdict


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"classes": ("benign", "other")}, "only bundles of the same classes can be compared"),
        ({"decision": OF_BENIGN}, "it looks for benign, but the bundle for malignant"),
    ],
)
def test_bundles_that_cannot_be_compared_are_refused_before_anything_is_written(
    tiny_bundle: Path, drawn: Path, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    if "classes" in changed:
        changed = changed | {"decision": Decision(positive="other", threshold=0.4, chosen_on="nothing")}
    with pytest.raises(DataError, match=said):
        evaluate(tiny_bundle, drawn, None, tmp_path / "out", other_bundle(tmp_path / "other", **changed))
    assert not (tmp_path / "out").exists()
