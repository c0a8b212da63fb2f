"""An evaluation says what anyone can compute again from its own rows, and shows it on a page that stands alone."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    log_loss,
    recall_score,
    roc_auc_score,
)

from app.bundles.reader import read_bundle
from app.drawing.overlay import Style
from app.predicting.overlays import draw_over
from app.predicting.request import HeatmapRequest
from tests.support.bundles import BRANCHES, write_tiny_bundle
from tests.support.evaluated import Evaluated, decoded, evaluated, parsed, points, predictor_of
from training.data.samples import DataError, read_samples, split_samples, write_samples
from training.evaluation.evaluate import evaluate


@pytest.fixture(scope="module", autouse=True)
def fewer_resamples() -> Iterator[None]:
    """What is looked at here does not depend on how many there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.evaluation.evaluate.REPEATS", 100)
        yield


@pytest.fixture(scope="module")
def two(tiny_bundle: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """Two classes with a threshold; the model has learnt nothing, so there are mistakes."""
    return evaluated(tiny_bundle, drawn, None, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def three(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """Three classes, one of whose names is no good HTML, as folders without groups or splits."""
    folder = tmp_path_factory.mktemp("three")
    for number, picture in enumerate(sorted(drawn.glob("*/*/*.png"))[:15]):
        place = folder / "data" / f"class {number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, place / (f"<b>{number}&.png" if number == 0 else f"{number}.png"))
    return evaluated(write_tiny_bundle(folder / "bundle", classes=3), folder / "data", None, folder / "out")


@pytest.mark.slow
def test_each_row_is_what_the_service_answers(two: Evaluated) -> None:
    predictor = predictor_of(two.bundle)
    for row in two.document["pictures"]:
        prediction, _ = predictor.predict(predictor.open((two.data / row["path"]).read_bytes()))
        answer = predictor.answer(prediction)
        assert row["answer"] == answer.label
        assert dict(zip(two.document["classes"], row["probabilities"], strict=True)) == answer.probabilities


def test_without_a_split_val_is_taken_with_its_labels_and_groups(two: Evaluated) -> None:
    with (two.data / "labels.csv").open(newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["split"] == "val"]
    assert len(rows) == 12
    for name in ("path", "label", "group"):
        assert two.column(name) == [row[name] for row in rows]
    assert two.document["data"] == {
        "path": str(two.data),
        "split": "val",
        "pictures": 12,
        "groups": len({row["group"] for row in rows}),
        "pictures_by_class": {"benign": 6, "malignant": 6},
    }


def test_figures_of_two_classes_follow_from_the_rows(two: Evaluated) -> None:
    malignant = np.array(two.column("label")) == "malignant"
    probability = two.probabilities[:, 1]
    answer = probability >= two.document["decision"]["threshold"]
    found = {name: estimate["value"] for name, estimate in two.document["figures"].items()}
    expected = {
        "auroc": roc_auc_score(malignant, probability),
        "average_precision": average_precision_score(malignant, probability),
        "sensitivity": recall_score(malignant, answer),
        "specificity": recall_score(malignant, answer, pos_label=False),
        "accuracy": accuracy_score(malignant, answer),
        "balanced_accuracy": balanced_accuracy_score(malignant, answer),
        "brier": brier_score_loss(malignant, probability),
        "nll": log_loss(malignant, probability),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found.keys() - expected.keys() == {
        "ece",
        "sensitivity_at_specificity_0.9",
        "sensitivity_at_specificity_0.95",
        "risk_coverage_area",
        "error_at_coverage_0.8",
    }
    assert two.document["decision"] == {"positive": "malignant", "threshold": 0.4}


def test_figures_of_three_classes_are_means_of_each_against_the_rest(three: Evaluated) -> None:
    classes, labels = three.document["classes"], np.array(three.column("label"))
    by_class = [roc_auc_score(labels == name, three.probabilities[:, k]) for k, name in enumerate(classes)]
    for name, value in zip(classes, by_class, strict=True):
        assert three.document["class_figures"][name]["auroc"]["value"] == pytest.approx(value)
    assert three.document["figures"]["auroc"]["value"] == pytest.approx(np.mean(by_class))
    assert three.document["decision"] == {"positive": None, "threshold": None}
    assert three.column("answer") == [classes[k] for k in three.probabilities.argmax(axis=1)]


@pytest.mark.parametrize("which", ["two", "three"])
def test_the_confusion_matrix_counts_the_rows(which: str, request: pytest.FixtureRequest) -> None:
    result: Evaluated = request.getfixturevalue(which)
    counted = confusion_matrix(result.column("label"), result.column("answer"), labels=result.document["classes"])
    assert result.document["confusion_matrix"]["pictures"] == counted.tolist()


@pytest.mark.parametrize("which", ["two", "three"])
def test_every_figure_lies_in_an_interval_that_has_some_width(which: str, request: pytest.FixtureRequest) -> None:
    """Of the figures which resampling does not bias."""
    found = request.getfixturevalue(which).document["figures"]
    for name in ("auroc", "average_precision", "accuracy", "brier", "nll"):
        assert found[name]["low"] < found[name]["high"]
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]


def test_folders_without_splits_are_taken_whole_and_each_picture_is_a_group(three: Evaluated) -> None:
    assert (three.document["data"]["split"], three.document["data"]["groups"]) == (None, 15)
    assert three.column("group") == three.column("path")


def test_the_document_says_which_bundle_versions_and_resamples(two: Evaluated, three: Evaluated) -> None:
    bundle = read_bundle(two.bundle)
    assert two.document["bundle"] == {"name": "tiny", "version": "1", "sha256": bundle.sha256}
    assert two.document["interval"]["repeats"] == 100
    for evaluation, engine in ((two, "openvino"), (three, "torch")):  # one bundle has graphs, the other has none
        assert {"fusionlens", "python", "numpy", engine} <= evaluation.document["versions"].keys()


def test_another_split_can_be_asked_for(tiny_bundle: Path, drawn: Path, tmp_path: Path) -> None:
    result = evaluated(tiny_bundle, drawn, "train", tmp_path / "deep" / "out")
    assert result.document["data"]["split"] == "train"
    assert all(path.startswith("train/") for path in result.column("path"))


def test_the_same_evaluation_writes_the_same_bytes(two: Evaluated, tmp_path: Path) -> None:
    again = evaluated(two.bundle, two.data, "val", tmp_path)
    assert (again.document, again.html) == (two.document, two.html)


def test_the_table_names_every_figure_with_its_interval(two: Evaluated) -> None:
    lines = two.returned.text().splitlines()
    assert "12 pictures" in lines[0] and lines[0].endswith("; positive class: malignant")
    auroc = two.document["figures"]["auroc"]
    assert f"AUROC {'':26} {auroc['value']:.3f}  {auroc['low']:.3f} to {auroc['high']:.3f}" in lines
    worth = two.document["branches"]["swin"]
    assert any(line.startswith(f"  swin {'':25} {worth['auroc']['value']:.3f}  ") for line in lines)
    assert len(lines) == 2 + len(two.document["figures"]) + 1 + len(BRANCHES)


def test_what_each_branch_is_worth_follows_from_the_shapley_values_that_the_service_gives(two: Evaluated) -> None:
    predictor = predictor_of(two.bundle)
    contrast = HeatmapRequest(target="malignant", against="benign", branch_values=True)
    values: dict[str, list[tuple[float, float]]] = {branch: [] for branch in BRANCHES}
    for row in two.document["pictures"]:
        prediction, _ = predictor.predict(predictor.open((two.data / row["path"]).read_bytes()))
        shares = predictor.explain_one(prediction, contrast).shares
        of_answer = predictor.explain_one(prediction, HeatmapRequest(branch_values=True)).shares
        for branch in BRANCHES:
            value, part = shares[branch].shapley_value, of_answer[branch].shapley_value
            assert value is not None and part is not None
            values[branch].append((value, abs(part)))
    sizes = np.array([[size for _, size in values[branch]] for branch in BRANCHES])
    malignant = np.array(two.column("label")) == "malignant"
    assert two.document["branches"].keys() == {*BRANCHES}
    for branch, shares in zip(BRANCHES, sizes / sizes.sum(axis=0), strict=True):
        worth = two.document["branches"][branch]
        assert worth["auroc"]["value"] == pytest.approx(
            roc_auc_score(malignant, [value for value, _ in values[branch]])
        )
        assert worth["share_quartiles"] == pytest.approx(np.quantile(shares, [0.25, 0.5, 0.75]), abs=1e-4)


def test_a_model_of_one_branch_has_no_branches_to_compare(drawn: Path, tmp_path: Path) -> None:
    assert (
        evaluated(write_tiny_bundle(tmp_path / "bundle", fusion="cnn"), drawn, None, tmp_path / "out").document[
            "branches"
        ]
        == {}
    )


def relabelled(data: Path, place: Path, change: dict[str, str]) -> Path:
    """The labels of `data` changed, and its pictures where they were."""
    shutil.copytree(data, place)
    table = place / "labels.csv"
    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    with table.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, rows[0].keys())
        writer.writeheader()
        writer.writerows(row | {"label": change.get(row["label"], row["label"])} for row in rows)
    return place


def test_a_label_that_the_bundle_does_not_know_is_refused(tiny_bundle: Path, drawn: Path, tmp_path: Path) -> None:
    data = relabelled(drawn, tmp_path / "data", {"malignant": "melanoma"})
    with pytest.raises(
        DataError, match="the bundle's classes are benign, malignant, but pictures are labelled melanoma"
    ):
        evaluate(tiny_bundle, data, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_label_that_only_looks_like_one_of_the_bundle_is_shown_apart(
    tiny_bundle: Path, drawn: Path, tmp_path: Path
) -> None:
    data = relabelled(drawn, tmp_path / "data", {"malignant": "m\u0430lignant"})
    with pytest.raises(DataError, match=r"labelled 'm\\u0430lignant', which looks like malignant and is another name"):
        evaluate(tiny_bundle, data, None, tmp_path / "out")


def test_a_damaged_picture_is_named(tiny_bundle: Path, drawn: Path, tmp_path: Path) -> None:
    data = relabelled(drawn, tmp_path / "data", {})
    victim = sorted(data.glob("val/benign/*.png"))[1]
    victim.write_bytes(victim.read_bytes()[:2000])
    with pytest.raises(DataError, match=rf"{re.escape(victim.name)}: The PNG picture is damaged"):
        evaluate(tiny_bundle, data, None, tmp_path / "out")


def test_splits_without_val_need_a_choice(tiny_bundle: Path, drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn / "train", tmp_path / "data" / "train")
    with pytest.raises(DataError, match="has no split val: choose --split from train"):
        evaluate(tiny_bundle, tmp_path / "data", None, tmp_path / "out")


def test_a_run_is_evaluated_on_the_split_that_was_made_for_it(tiny_bundle: Path, drawn: Path, tmp_path: Path) -> None:
    unsplit = [replace(sample, split=None, group=None) for sample in read_samples(drawn)]
    split = split_samples(unsplit, 0.25, seed=1)
    tmp_path.joinpath("run").mkdir()
    write_samples(split, tmp_path / "run" / "samples.csv")
    evaluation = evaluate(tiny_bundle, tmp_path / "run", None, tmp_path / "out")
    assert evaluation.split == "val"
    assert {Path(path).name for path in evaluation.paths} == {s.path.name for s in split if s.split == "val"}


@pytest.mark.parametrize("which", ["two", "three"])
def test_the_page_is_whole_and_asks_no_other_host(which: str, request: pytest.FixtureRequest) -> None:
    html = request.getfixturevalue(which).html
    page = parsed(html)
    assert not re.search(r"https?:|//\w+\.|url\(|@import", html)
    for attributes in (*page.all("img"), *page.all("link")):
        assert (attributes.get("src") or attributes.get("href") or "").startswith("data:")
    assert not page.all("script")
    assert "<b>0" not in html  # a file's name is text, not markup


def test_the_page_shows_each_figure_and_what_it_rests_on(two: Evaluated) -> None:
    text = " ".join(parsed(two.html).text.split())
    for estimate in two.document["figures"].values():
        assert f"{estimate['value']:.3f} {estimate['low']:.3f} to {estimate['high']:.3f}" in text
    groups = two.document["data"]["groups"]
    assert f"12 pictures of {groups} groups (6 benign, 6 malignant)" in text
    assert two.document["bundle"]["sha256"] in text


def test_pictures_tables_and_curves_have_words_for_who_cannot_see_them(two: Evaluated) -> None:
    page = parsed(two.html)
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert all(attributes.get("scope") for attributes in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    titles = {attributes["id"] for attributes in page.all("title") if "id" in attributes}
    assert titles == {attributes["aria-labelledby"] for attributes in page.all("svg")} != set()


def test_the_worst_mistakes_come_first_each_with_its_overlay(two: Evaluated) -> None:
    rows = two.document["pictures"]
    answered = [dict(zip(two.document["classes"], row["probabilities"], strict=True))[row["answer"]] for row in rows]
    wrong = [i for i in range(len(rows)) if rows[i]["answer"] != rows[i]["label"]]
    worst = sorted(wrong, key=lambda i: -answered[i])[:12]
    assert worst
    images = parsed(two.html).all("img")
    assert [image["alt"] for image in images[0::2]] == [f"The picture {rows[i]['path']}" for i in worst]
    service = predictor_of(two.bundle)
    for index, shown, overlay in zip(worst, images[0::2], images[1::2], strict=True):
        prediction, _ = service.predict(service.open((two.data / rows[index]["path"]).read_bytes()))
        explanation = service.explain_one(prediction, HeatmapRequest(target=rows[index]["answer"]))
        np.testing.assert_array_equal(decoded(overlay), draw_over(prediction, explanation, Style()).picture)
        original = np.asarray(Image.open(two.data / rows[index]["path"]).convert("RGB"), dtype=float)
        assert np.abs(np.asarray(decoded(shown)) - original).mean() < 4  # but for JPEG


def test_areas_under_the_drawn_curves_are_the_figures(two: Evaluated) -> None:
    roc, precision_recall, reliability, risk_coverage = points(parsed(two.html))
    figures = two.document["figures"]
    assert np.trapezoid(roc[:, 1], roc[:, 0]) == pytest.approx(figures["auroc"]["value"], abs=1e-4)
    area = np.trapezoid(precision_recall[:, 1], precision_recall[:, 0])
    assert area == pytest.approx(figures["average_precision"]["value"], abs=1e-4)
    assert np.all((reliability >= -1e-9) & (reliability <= 1 + 1e-9))
    assert risk_coverage[:, 1].mean() == pytest.approx(figures["risk_coverage_area"]["value"], abs=1e-4)


def test_three_classes_have_a_curve_and_a_row_each(three: Evaluated) -> None:
    page = parsed(three.html)
    curves, text = points(page), " ".join(page.text.split())
    for k, name in enumerate(three.document["classes"]):
        value = three.document["class_figures"][name]["auroc"]["value"]
        assert np.trapezoid(curves[k][:, 1], curves[k][:, 0]) == pytest.approx(value, abs=1e-4)
        assert f"{name} 5 {value:.3f}" in text
    assert len(curves) == 8  # three of each kind, and the answer's reliability and risk
