"""Metrics: what Prometheus makes of them, and what they say after known requests."""

from __future__ import annotations

import http.client
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.settings import Settings
from tests.support.asking import PNG, assert_problem, png_bytes, predict
from tests.support.programs import tool
from tests.support.serving import serving


@pytest.fixture(scope="module")
def counted(tiny_bundle: Path) -> Iterator[httpx.Client]:
    """A client of a service that nobody else asks."""
    with serving(Settings(bundle=tiny_bundle, max_upload_bytes=100_000)) as client:
        yield client


def samples(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_promtool_finds_nothing_to_say_about_names_and_units(counted: httpx.Client) -> None:
    tool("promtool")
    predict(counted, png_bytes())
    text = counted.get("/metrics").text
    own = "".join(line for line in text.splitlines(keepends=True) if "fusionlens_" in line)
    ran = subprocess.run(["promtool", "check", "metrics"], input=own, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_what_happened_is_what_is_counted(counted: httpx.Client) -> None:
    before = samples(counted)
    answers = [predict(counted, png_bytes(64 + n, 64)) for n in range(5)]
    link = answers[0]["links"]["gradcam"]
    for _ in range(3):
        counted.get(link)
    counted.get("/gradcam", params={"prediction_id": "never"})
    counted.post("/predict", content=b"no picture", headers=PNG)
    counted.post("/predict", content=bytes(100_001), headers=PNG)
    after = samples(counted)

    def more(*sample: str) -> float:
        return after.get(sample, 0.0) - before.get(sample, 0.0)

    assert more("fusionlens_requests_total", "POST", "/predict", "200") == 5
    assert more("fusionlens_requests_total", "POST", "/predict", "415") == 1
    assert more("fusionlens_requests_total", "POST", "/predict", "413") == 1
    assert more("fusionlens_requests_total", "GET", "/gradcam", "200") == 3
    assert more("fusionlens_requests_total", "GET", "/gradcam", "404") == 1
    assert more("fusionlens_refusals_total", "unsupported-media-type") == 1
    assert more("fusionlens_refusals_total", "upload-too-large") == 1
    assert more("fusionlens_refusals_total", "unknown-prediction") == 1
    for stage, times in {"decode": 5, "trunk": 5, "head": 5, "explain": 1, "encode": 1}.items():
        assert more("fusionlens_stage_duration_seconds_count", stage) == times
        assert more("fusionlens_stage_duration_seconds_sum", stage) > 0
    assert more("fusionlens_queue_wait_seconds_count", "predict") == 5
    assert more("fusionlens_batch_pictures_sum") == more("fusionlens_batch_pictures_count") == 5
    assert more("fusionlens_store_writes_total", "stored") == more("fusionlens_store_entries") == 5
    assert more("fusionlens_store_bytes") > 0
    assert more("fusionlens_store_reads_total", "hit") == 3
    assert more("fusionlens_store_reads_total", "miss") == 1
    assert more("fusionlens_explanation_cache_reads_total", "hit") == 2
    assert more("fusionlens_explanation_cache_reads_total", "miss") == 1
    labels = [answer["label"] for answer in answers]
    for label in {*labels}:
        assert more("fusionlens_predictions_total", label) == labels.count(label)
    confidence = sum(answer["probabilities"][0]["probability"] for answer in answers)
    assert more("fusionlens_prediction_confidence_sum") == pytest.approx(confidence)
    assert after[("fusionlens_queue_length", "predict")] == 0
    model = counted.get("/model").json()
    said = {"fusionlens_model_info", *(model[name] for name in ("name", "version", "sha256", "engine"))}
    assert [{*name} for name in after if name[0] == "fusionlens_model_info"] == [said]


def test_addresses_that_clients_make_up_add_no_series(counted: httpx.Client) -> None:
    def series() -> set[tuple[str, ...]]:
        return set(samples(counted))

    counted.get("/none-such")
    counted.request("BREW", "/none-such")
    before = series()
    connection = http.client.HTTPConnection(str(counted.base_url.host), counted.base_url.port or 0)
    for n in range(1_000):
        method = "GET" if n % 10 else f"M{n}"
        connection.request(method, f"/{secrets.token_hex(8)}?{secrets.token_hex(4)}")
        assert connection.getresponse().read()
    connection.close()
    made_up = [name for name in series() - before if "405" not in name]
    assert made_up == []


def test_a_refused_method_is_counted_as_other(counted: httpx.Client) -> None:
    assert_problem(counted.request("PROPFIND", "/model"), 405, "method-not-allowed")
    assert ("fusionlens_requests_total", "other", "/model", "405") in samples(counted)
