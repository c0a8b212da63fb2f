"""The measuring of explanations says what anyone can compute again from the service's own heatmaps and answers."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.explain.merge import MergeRule
from app.explain.methods import METHODS
from app.predicting.predictor import Predictor
from app.predicting.request import HeatmapRequest
from tests.support.bundles import write_tiny_bundle
from tests.support.evaluated import decoded, parsed, predictor_of
from training.cli import main
from training.data.draw import draw_dataset
from training.data.samples import DataError, Sample, read_samples
from training.heatmaps.evaluate import evaluate_heatmaps
from training.heatmaps.faithfulness import deletion, energy_inside, enlarge, mean_colour, pointing
from training.heatmaps.measure import (
    CENTRED,
    RANDOM,
    Variant,
    heatmaps_of,
    probability_of,
    read_mask,
    variants_of,
)
from training.heatmaps.metrics import METRICS
from training.heatmaps.report import MetricResult
from training.metrics.classification import Estimate

GRADCAM = Variant("gradcam", "fusion", "sum")


@pytest.fixture(scope="module", autouse=True)
def less_work() -> Iterator[None]:
    """What is looked at here depends neither on how many resamples there are nor on how many methods."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.heatmaps.evaluate.REPEATS", 100)
        patch.setattr("training.heatmaps.measure.METHODS", {"gradcam": METHODS["gradcam"]})
        yield


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 drawn pictures with masks, 4 of them in val."""
    data = tmp_path_factory.mktemp("drawn") / "data"
    draw_dataset(data, 16, seed=1)
    return data


@pytest.fixture(scope="module")
def out(tiny_bundle: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What measuring two of them wrote."""
    folder = tmp_path_factory.mktemp("measured") / "deep" / "out"
    evaluate_heatmaps(tiny_bundle, drawn, None, 2, folder)
    return folder


@pytest.fixture(scope="module")
def document(out: Path) -> dict[str, Any]:
    """The JSON of it."""
    read: dict[str, Any] = json.loads((out / "explanations.json").read_text(encoding="utf-8"))
    return read


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    """As the service has it."""
    return predictor_of(tiny_bundle)


def row_of(table: list[dict[str, Any]], variant: Variant) -> dict[str, Any]:
    """A variant's row of a table."""
    (row,) = [
        row
        for row in table
        if (row["method"], row["branch"], row["fuse"]) == (variant.method, variant.branch, variant.merge_rule)
    ]
    return row


def in_val(data: Path) -> Sample:
    """Some sample of val."""
    return read_samples(data, "val")[0]


def test_heatmaps_are_the_services_own_for_every_method_branch_and_fusion(
    predictor: Predictor, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.heatmaps.measure.METHODS", METHODS)
    prediction, _ = predictor.predict(predictor.open(in_val(drawn).path.read_bytes()))
    heatmaps = heatmaps_of(predictor, prediction, "benign", np.random.default_rng(0))
    fusions: list[MergeRule] = ["mean", "max", "product"]
    expected = {RANDOM, CENTRED}
    for name, method in METHODS.items():
        rules: list[MergeRule] = ["sum", *fusions] if method.units == "logit" else fusions
        expected |= {Variant(name, "cnn"), Variant(name, "swin"), *(Variant(name, "fusion", rule) for rule in rules)}
    assert heatmaps.keys() == expected
    for variant in heatmaps.keys() - {RANDOM, CENTRED}:
        assert variant.branch is not None
        target = None if METHODS[variant.method].class_agnostic else "benign"
        served = predictor.explain_one(
            prediction, HeatmapRequest((variant.branch,), variant.method, target, merge=variant.merge_rule)
        )
        np.testing.assert_array_equal(heatmaps[variant], served.heatmap, err_msg=variant.name)


def test_the_score_is_the_probability_that_the_service_answers_with(predictor: Predictor, drawn: Path) -> None:
    uploads = [predictor.open(sample.path.read_bytes()) for sample in read_samples(drawn, "val")]
    expected = [predictor.answer(predictor.predict(upload)[0]).probabilities["malignant"] for upload in uploads]
    score = probability_of(predictor, uploads[0], "malignant")
    images = np.stack([upload.image for upload in uploads])
    for _ in range(2):  # the second time they are cached
        np.testing.assert_array_equal(score(images), expected)
    np.testing.assert_array_equal(score(images[::-1]), expected[::-1])
    darker = images.copy()
    darker[:, -20:] = 0
    assert (score(darker) != expected).all()


@pytest.mark.slow
def test_figures_can_be_computed_again_from_heatmap_picture_and_mask(
    document: dict[str, Any], predictor: Predictor, drawn: Path
) -> None:
    for n, row in enumerate(document["pictures"]):
        upload = predictor.open((drawn / row["path"]).read_bytes())
        prediction, _ = predictor.predict(upload)
        answer = predictor.answer(prediction)
        assert (row["explained"], row["probability"]) == (answer.label, answer.probabilities[answer.label])
        heatmap = enlarge(predictor.explain_one(prediction, HeatmapRequest(method="gradcam")).heatmap, (64, 64))
        values = {name: of_figure[n] for name, of_figure in document["values"][GRADCAM.name].items()}
        score = probability_of(predictor, upload, answer.label)
        expected = deletion(score, upload.image, heatmap, mean_colour(upload.image), seed=n)
        assert values["deletion"] == pytest.approx(expected, abs=1e-6)
        mask = read_mask(drawn / "masks" / Path(row["path"]).name, upload)
        if row["mask_share"] is not None:
            assert row["mask_share"] == mask.mean()
            assert values["pointing"] == pytest.approx(pointing(heatmap, mask), abs=1e-6)
            assert values["energy"] == pytest.approx(energy_inside(heatmap, mask), abs=1e-6)


def test_tables_hold_means_and_paired_differences_with_intervals(document: dict[str, Any]) -> None:
    values = document["values"]
    for name in ("insertion", "deletion", "road", "average_drop", "shift", "jpeg"):
        row = row_of(document["table"], GRADCAM)[name]
        assert row["value"] == pytest.approx(np.mean(values[GRADCAM.name][name]), abs=1e-6)
        assert row["low"] <= row["value"] <= row["high"]
        for other in ("random map", "centred Gaussian"):
            difference = np.subtract(values[GRADCAM.name][name], values[other][name])
            assert row["less"][other]["value"] == pytest.approx(difference.mean(), abs=1e-6)
            assert difference.min() - 1e-6 <= row["less"][other]["low"] <= row["less"][other]["high"]


def test_each_explained_class_has_a_table_of_its_own(document: dict[str, Any]) -> None:
    explained = np.array([row["explained"] for row in document["pictures"]])
    assert document["class_tables"].keys() == {label for label in explained if (explained == label).sum() > 1} != set()
    for label, table in document["class_tables"].items():
        of_class = np.array(document["values"][GRADCAM.name]["road"])[explained == label]
        assert row_of(table, GRADCAM)["road"]["value"] == pytest.approx(of_class.mean(), abs=1e-6)


def test_ranks_are_from_best_to_worst(document: dict[str, Any]) -> None:
    table, ranked = document["table"], document["ranked"]
    ranks = []
    for name in ranked:
        sign = 1 if document["figures"][name]["higher_is_better"] else -1
        worth = [sign * row[name]["value"] for row in table]
        ranks.append([np.mean([i + 1 for i, w in enumerate(sorted(worth, reverse=True)) if w == own]) for own in worth])
    np.testing.assert_allclose([row["mean_rank"] for row in table], np.mean(ranks, axis=0))


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "verdict"),
    [
        (0.1, 0.2, True, "better"),
        (0.1, 0.2, False, "worse"),
        (-0.2, -0.1, False, "better"),
        (-0.2, -0.1, True, "worse"),
        (-1.0, 1.0, True, ""),
    ],
)
def test_a_verdict_needs_an_interval_on_one_side(low: float, high: float, higher_is_better: bool, verdict: str) -> None:
    own, clear = Estimate(0.5, 0.4, 0.6), Estimate(0.3, 0.2, 0.4) if higher_is_better else Estimate(-0.3, -0.4, -0.2)
    assert (
        MetricResult(own, {"a": Estimate((low + high) / 2, low, high), "b": clear}).verdict(higher_is_better) == verdict
    )


def test_maps_that_ignore_the_picture_are_as_stable_as_they_should_be(document: dict[str, Any]) -> None:
    values = document["values"]
    assert values["centred Gaussian"]["jpeg"] == [1, 1]
    assert all(0.9 < value < 1 for value in values["centred Gaussian"]["shift"])
    assert np.abs(values["random map"]["jpeg"]).max() < 0.8
    assert min(values[GRADCAM.name]["jpeg"]) > 0.8


@pytest.mark.slow
def test_the_same_measuring_writes_the_same_bytes(out: Path, tiny_bundle: Path, drawn: Path, tmp_path: Path) -> None:
    evaluate_heatmaps(tiny_bundle, drawn, "val", 2, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"explanations.json", "explanations.html"}
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (out / file.name).read_bytes()


@pytest.mark.slow
def test_a_single_branch_has_no_fusion_and_data_without_masks_no_localisation(drawn: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    with (data / "labels.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    with (data / "labels.csv").open("w", newline="") as lines:
        writer = csv.DictWriter(lines, ["path", "label", "split"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    bundle = write_tiny_bundle(tmp_path / "bundle", "swin")
    result = evaluate_heatmaps(bundle, data, None, 2, tmp_path / "out")
    only = Variant("gradcam", "swin")
    assert variants_of(predictor_of(bundle)) == result.variants == [RANDOM, CENTRED, only]
    assert result.table[only].keys() == METRICS.keys() - {"pointing", "energy"}
    assert result.chance is None
    assert "pointing" not in result.text()
    parsed((tmp_path / "out" / "explanations.html").read_text(encoding="utf-8"))


def test_a_single_picture_is_refused(tiny_bundle: Path, drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pictures of at least two groups"):
        evaluate_heatmaps(tiny_bundle, drawn, None, 1, tmp_path / "out")


def test_the_page_stands_alone_and_shows_every_heatmap(out: Path, document: dict[str, Any]) -> None:
    html = (out / "explanations.html").read_text(encoding="utf-8")
    page = parsed(html)
    assert not re.search(r"https?:|//\w+\.|url\(|@import|<script", html)
    images = page.all("img")
    assert len(images) == len(document["pictures"]) * (1 + len(document["table"]))
    assert all(image["alt"] and decoded(image).size == (160, 160) for image in images)
    text = " ".join(page.text.split())
    for row in document["table"]:
        road = row["road"]
        assert f"{road['value']:.3f} {road['low']:.3f} to {road['high']:.3f}" in text
    assert all(figure["definition"] in text and figure["source"] in text for figure in document["figures"].values())
    assert document["bundle"]["sha256"] in text


def test_the_command_prints_the_table(
    tiny_bundle: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.heatmaps.measure.METHODS", {})
    command = ["explain-eval", str(tiny_bundle), str(drawn), "--pictures", "2", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"val of {drawn}: 2 pictures")
    assert [line.split("  ")[0] for line in lines[3:5]] == ["random map", "centred Gaussian"]
    assert main([*command, "--split", "test"]) == 1
