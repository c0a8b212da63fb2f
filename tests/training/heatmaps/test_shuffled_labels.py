"""Training heads on shuffled labels tells maps that notice the labels from maps that do not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.explain.methods import METHODS
from tests.support.bundles import write_tiny_bundle
from training.cli import main
from training.data.draw import draw_dataset
from training.data.samples import read_samples, write_samples
from training.heatmaps.shuffled_labels import (
    EncodedSplit,
    compare_shuffled_labels,
    encode_split,
    heatmaps_of,
    rank_correlations,
    shuffle_labels,
    train_head,
)
from training.heatmaps.shuffled_report import SCORES, HeadMetrics, ShuffledLabelsResult, VariantRow
from training.metrics.classification import Estimate

EPOCHS = 2
LOGIT = np.array([0, 1], np.float32)


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle for torch alone."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 drawn pictures, 6 of them in val."""
    data = tmp_path_factory.mktemp("drawn") / "data"
    draw_dataset(data, 24, seed=1)
    return data


@pytest.fixture(scope="module")
def train(bundle_path: Path, drawn: Path) -> EncodedSplit:
    """The maps of those in train."""
    bundle = read_bundle(bundle_path)
    return encode_split(load_engine(bundle, "auto"), bundle, read_samples(drawn, "train"))


def row(
    shuffled: tuple[float, float, float], control: float, difference_low: float, method: str = "gradcam"
) -> VariantRow:
    """A row with these mean correlations."""
    of_control, difference = Estimate(control, control, control), Estimate(control - shuffled[0], difference_low, 1.0)
    of_shuffled = Estimate(*shuffled)
    return VariantRow("logit", method, "cnn", of_shuffled, of_control, of_shuffled, of_control, difference, difference)


def test_shuffling_keeps_how_many_there_are_of_each_class_and_nothing_else() -> None:
    labels = np.repeat([0, 1, 2], [500, 300, 200])
    dealt = shuffle_labels(labels, seed=0)
    np.testing.assert_array_equal(np.bincount(dealt), [500, 300, 200])
    by_chance = 0.5**2 + 0.3**2 + 0.2**2
    assert (dealt == labels).mean() == pytest.approx(by_chance, abs=0.05)
    np.testing.assert_array_equal(dealt, shuffle_labels(labels, seed=0))
    assert (dealt != shuffle_labels(labels, seed=1)).any()


def test_a_head_against_itself_correlates_fully_by_every_method(bundle_path: Path, train: EncodedSplit) -> None:
    bundle = read_bundle(bundle_path)
    reference = bundle.baseline
    first, again = (train_head(bundle, train, train.labels, EPOCHS, seed=0) for _ in range(2))
    maps = {branch: of_branch[0].astype(np.float32) for branch, of_branch in train.maps.items()}
    first_maps, again_maps = (heatmaps_of(head, maps, reference, LOGIT) for head in (first, again))
    assert first_maps.keys() == {(method, view) for method in METHODS for view in ("cnn", "swin", "fusion")}
    for variant, heatmap in first_maps.items():
        assert rank_correlations(heatmap, again_maps[variant]) == pytest.approx((1, 1)), variant
    other = heatmaps_of(train_head(bundle, train, train.labels, EPOCHS, seed=1), maps, reference, LOGIT)
    kept = {variant for variant, heatmap in first_maps.items() if rank_correlations(heatmap, other[variant])[0] > 0.999}
    assert {method for method, view in kept if view == "swin"} == {"eigencam"}


def test_a_head_learns_labels_without_a_rule_by_heart(bundle_path: Path, train: EncodedSplit) -> None:
    bundle = read_bundle(bundle_path)
    labels = shuffle_labels(train.labels, seed=0)
    head = train_head(bundle, train, labels, 300, seed=0)
    assert (head.classify(train.maps).argmax(axis=1) == labels).all()


def test_rank_correlations_are_spearmans_of_maps_and_of_their_absolute_values() -> None:
    rng = np.random.default_rng(0)
    a, b = (np.rint(rng.standard_normal((7, 7)) * 2) for _ in range(2))  # with ties
    expected = [spearmanr(f(a).ravel(), f(b).ravel()).statistic for f in (np.asarray, np.abs)]
    assert rank_correlations(a, b) == pytest.approx(expected)
    assert rank_correlations(a, -np.exp(a))[0] == pytest.approx(-1)
    assert rank_correlations(a, np.zeros_like(a)) == (0, 0)


@pytest.mark.parametrize(
    ("row", "result"),
    [
        (row((0.1, 0.0, 0.2), control=0.8, difference_low=0.5), "passes"),
        (row((0.1, 0.0, 0.2), control=0.15, difference_low=-0.1), "FAILS"),
        (row((0.6, 0.5, 0.7), control=0.9, difference_low=0.2), "FAILS"),
        (row((1.0, 1.0, 1.0), control=1.0, difference_low=0.0, method="eigencam"), "of no class: not counted"),
    ],
    ids=["maps that notice", "no more than another seed", "most of the order survives", "no head is looked at"],
)
def test_a_method_fails_whose_maps_survive_shuffled_labels(row: VariantRow, result: str) -> None:
    outcome = ShuffledLabelsResult("a", "b", "c", {}, 1, 0, {"shuffled labels": HeadMetrics(1.0, 0.5, 0.5)}, [row])
    assert row.result == result
    assert [f"{row.method} on cnn (logit) fails" in sentence for sentence in outcome.findings] == [True] * (
        "F" in result
    )
    assert result in outcome.text()


def test_a_head_that_did_not_learn_the_shuffled_labels_is_reported() -> None:
    outcome = ShuffledLabelsResult("a", "b", "c", {}, 1, 0, {"shuffled labels": HeadMetrics(0.6, 0.5, 0.5)}, [])
    assert "learnt only 60% of them" in outcome.text()
    assert not replace(outcome, heads={"shuffled labels": HeadMetrics(0.99, 0.5, 0.5)}).findings


def test_the_command_prints_tables_and_writes_the_same_figures(
    bundle_path: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "out.json"
    command = ["shuffled-labels", str(bundle_path), str(drawn), "--epochs", "1", "--pictures", "3"]
    assert main([*command, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["pictures"] == {"train": 18, "val": 6, "explained": 3}
    assert printed.startswith(f"{drawn}: 18 train, 6 val, 3 explained; heads trained for 1 epochs, seed 0")
    assert len(document["table"]) == len(SCORES) * len(METHODS) * 3
    for entry in document["table"]:
        line = f"{entry['method']:12}{entry['view']:8}{entry['shuffled']['value']:9.2f}{entry['control']['value']:9.2f}"
        assert line in printed
        assert entry["less"]["value"] == pytest.approx(entry["control"]["value"] - entry["shuffled"]["value"])
        assert entry["less"]["low"] <= entry["less"]["value"] <= entry["less"]["high"]
        if entry["method"] == "eigencam":
            assert entry["shuffled"] == entry["control"] == pytest.approx({"value": 1, "low": 1, "high": 1})
    assert all(sentence in printed for sentence in document["findings"])


def test_a_single_branch_has_no_fusion(drawn: Path, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle", "swin")
    comparison = compare_shuffled_labels(bundle, drawn, epochs=1, picture_count=2, seed=0)
    assert {(row.method, row.view) for row in comparison.rows} == {(method, "swin") for method in METHODS}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--epochs", "0"], "argument --epochs: '0' is no whole number from 1"),
        (["--seed", "-1"], "argument --seed: '-1' is no whole number from 0"),
        (["--pictures", "-3"], "argument --pictures: '-3' is no whole number from 1"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    options: list[str], sentence: str, bundle_path: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["shuffled-labels", str(bundle_path), str(drawn), *options])
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [(["--pictures", "1"], "choose more --pictures")],
)
def test_what_cannot_be_measured_is_refused(
    options: list[str], sentence: str, bundle_path: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shuffled-labels", str(bundle_path), str(drawn), *options]) == 1
    assert sentence in capsys.readouterr().err


def test_data_without_both_splits_or_with_other_classes_is_refused(
    bundle_path: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = read_samples(drawn)
    for changed, sentence in [
        ([replace(sample, split="val") for sample in samples], "train has pictures of no class"),
        ([replace(sample, label="benign") for sample in samples], "train has pictures of benign, but the bundle"),
        (
            [replace(sample, label="mole") for sample in samples],
            "pictures of mole, but the bundle's classes are benign",
        ),
    ]:
        write_samples(changed, tmp_path / "samples.csv")
        assert main(["shuffled-labels", str(bundle_path), str(tmp_path)]) == 1
        assert sentence in capsys.readouterr().err
