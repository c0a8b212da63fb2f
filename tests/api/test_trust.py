"""`trust` in the answer of POST /predict: what it holds, and what happens where nothing is known."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import get_args

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.api.schemas import PREDICTION_EXAMPLE
from app.bundles.manifest import ReasonCode
from app.drawing.png import encode_png
from tests.support import served_process as process
from tests.support.asking import png_bytes, predict
from tests.support.trusted import scenes
from tests.support.waiting import PATIENCE_S

CLASSES = ["benign", "malignant"]


def _asked(client: httpx.Client, content: bytes, **query: str) -> httpx.Response:
    return client.post("/predict", params=query, content=content, headers={"content-type": "image/png"})


def test_the_answer_says_whether_it_may_be_relied_on(trusting: httpx.Client) -> None:
    answer = predict(trusting, encode_png(scenes(1, 5)[0]))
    trust = answer["trust"]
    assert answer["trust_note"] is None
    example = PREDICTION_EXAMPLE["trust"]
    assert {name: type(value) for name, value in trust.items()} == {
        name: type(value) for name, value in example.items()
    }
    assert trust["coverage"] == 0.9 and set(trust["prediction_set"]) <= {*CLASSES}
    assert {one["label"] for one in trust["probabilities"]} == {*CLASSES}
    rule = trusting.get("/model").json()["trust"]
    refers = [reason["code"] for reason in trust["reasons"] if reason["code"] in rule["refers"]]
    assert trust["decision"] == ("refer" if refers else "answer")
    assert rule["pictures"] == {"benign": 20, "malignant": 20} and rule["inside"] == 0.9


def test_a_foreign_picture_and_a_poor_one_are_referred_with_a_sentence(trusting: httpx.Client) -> None:
    foreign = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    trust = predict(trusting, encode_png(foreign))["trust"]
    assert trust["decision"] == "refer" and trust["in_distribution"] is False and trust["novelty_percentile"] > 90
    assert "foreign_picture" in [reason["code"] for reason in trust["reasons"]]
    black = predict(trusting, encode_png(np.zeros((20, 20, 3), np.uint8)))["trust"]
    (poor,) = [reason["detail"] for reason in black["reasons"] if reason["code"] == "poor_quality"]
    assert "nearly black" in poor and "contrast" in poor and "3.2 times" in poor


@pytest.mark.parametrize("as_field", [False, True])
def test_a_higher_coverage_gives_no_smaller_set(trusting: httpx.Client, as_field: bool) -> None:
    content, sets = encode_png(scenes(1, 6)[0]), []
    for coverage in ("0.5", "0.7", "0.95"):
        if as_field:
            answer = trusting.post("/predict", data={"coverage": coverage}, files={"file": content})
        else:
            answer = _asked(trusting, content, coverage=coverage)
        trust = answer.json()["trust"]
        assert trust["coverage"] == float(coverage)
        sets.append(set(trust["prediction_set"]))
    assert sets[0] <= sets[1] <= sets[2]


def test_a_promise_that_cannot_be_kept_is_refused_with_the_smallest_rate_of_misses(trusting: httpx.Client) -> None:
    refused = _asked(trusting, png_bytes(), coverage="0.97")
    assert refused.status_code == 422
    assert "20 calibration pictures" in refused.text and "rate of misses is 0.0476" in refused.text
    assert "at most 0.9523" in refused.text
    assert _asked(trusting, png_bytes(), coverage="0.9523").status_code == 200


@pytest.mark.parametrize("coverage", ["0.49", "0.995", "nan", "much", ""])
def test_a_coverage_out_of_range_is_refused(trusting: httpx.Client, coverage: str) -> None:
    refused = _asked(trusting, png_bytes(), coverage=coverage)
    assert refused.status_code == 422 and "coverage" in refused.text


def test_a_bundle_without_the_part_says_null_and_why(client: httpx.Client) -> None:
    answer = predict(client, png_bytes())
    assert answer["trust"] is None and "fusionlens-train trust" in answer["trust_note"]
    assert client.get("/model").json()["trust"] is None


def test_what_is_said_of_answers_is_counted_and_is_in_the_log_by_its_codes(trusted: Path, tmp_path: Path) -> None:
    env = process.environment(
        process.ROOT, FUSIONLENS_LOG="json", FUSIONLENS_DRAIN_S="0", FUSIONLENS_BUNDLE=str(trusted)
    )
    pictures = [*scenes(12, 2), np.zeros((20, 20, 3), np.uint8)]
    with process.serving(tmp_path, env) as served:
        with httpx.Client(base_url=served.address, trust_env=False, timeout=PATIENCE_S) as client:
            said = [_asked(client, encode_png(picture), coverage="0.5").json()["trust"] for picture in pictures]
            families = text_string_to_metric_families(client.get("/metrics").text)
            counted = {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}
        served.process.send_signal(signal.SIGTERM)
        output, _ = served.process.communicate(timeout=PATIENCE_S)
    assert {one["decision"] for one in said} == {"answer", "refer"}
    for decision in ("answer", "refer"):
        expected = sum(one["decision"] == decision for one in said)
        assert counted["fusionlens_assessments_total", decision] == expected
    codes = Counter(reason["code"] for one in said for reason in one["reasons"])
    for code in get_args(ReasonCode):
        assert counted["fusionlens_doubts_total", code] == codes[code]
    assert counted["fusionlens_novelty_percentile_sum",] == pytest.approx(
        sum(one["novelty_percentile"] for one in said)
    )
    lines = [line for line in map(json.loads, output.splitlines()) if line.get("route") == "/predict"]
    for line, one in zip(lines, said, strict=True):
        assert line["decision"] == one["decision"]
        assert line["reasons"] == [reason["code"] for reason in one["reasons"]]
