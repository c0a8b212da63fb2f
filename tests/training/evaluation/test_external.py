"""Data of other origin is evaluated as it is: undefined figures say so and why, in every form, and none is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.bundles import edit, write_tiny_bundle
from tests.support.evaluated import parsed
from training.data.draw import draw_dataset
from training.data.samples import DataError, classes_of, read_samples
from training.evaluation.evaluate import evaluate, read_split, samples_of_split
from training.evaluation.metric_values import Pictures, metric_values
from training.metrics.classification import DecisionRule, classification_metrics, nll
from training.recipe.load import load_recipe
from training.runs.run import Run, write_run

RANKING = {"auroc", "average_precision", "sensitivity_at_specificity_0.9", "sensitivity_at_specificity_0.95"}
ALWAYS = {"accuracy", "brier", "ece", "nll", "risk_coverage_area", "error_at_coverage_0.8"}


@pytest.fixture(scope="module", autouse=True)
def fewer_resamples() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.evaluation.evaluate.REPEATS", 30)
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve drawn pictures, whatever they show."""
    data = tmp_path_factory.mktemp("drawn") / "data"
    draw_dataset(data, 12, seed=5)
    return sorted(data.glob("*/*/*.png"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("two") / "bundle")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("three") / "bundle", classes=3)


def lay(root: Path, pictures: Sequence[Path], *classes: str) -> Path:
    """The pictures, dealt to these folders."""
    for number, picture in enumerate(pictures):
        place = root / classes[number % len(classes)]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, place)
    return root


def written(out: Path) -> tuple[dict[str, Any], str]:
    """The document, which has no NaN, and the text of the page."""

    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"{name} is no JSON")

    document = json.loads((out / "evaluation.json").read_text(), parse_constant=refuse)
    html = (out / "report.html").read_text()
    assert "nan" not in parsed(html).text.lower().split()
    return document, " ".join(parsed(html).text.split())


CASES = [
    ("malignant", RANKING | {"specificity", "balanced_accuracy"}, "no picture of benign"),
    ("benign", RANKING | {"sensitivity", "balanced_accuracy"}, "no picture of malignant"),
]


@pytest.mark.parametrize("split", ["", "test/"])
@pytest.mark.parametrize(("only", "undefined", "reason"), CASES)
def test_pictures_of_one_class_of_two_define_what_they_can(
    split: str, only: str, undefined: set[str], reason: str, two: Path, pictures: list[Path], tmp_path: Path
) -> None:
    data = lay(tmp_path / "data", pictures, f"{split}{only}")
    evaluation = evaluate(two, data, None, tmp_path / "out")
    document, page = written(tmp_path / "out")
    figures = document["figures"]
    assert {name for name, figure in figures.items() if figure["value"] is None} == undefined
    for name in undefined:
        assert figures[name] == {"value": None, "low": None, "high": None, "undefined": reason}
    right = np.mean([row["answer"] == only for row in document["pictures"]])
    assert figures["accuracy"]["value"] == pytest.approx(right)
    assert document["data"]["split"] == (split.strip("/") or None)
    for text in (evaluation.text(), page):
        assert text.count(f"undefined: {reason}") == len(undefined) + len(document["branches"])
    assert "Undefined on these pictures: ROC curve, Precision and recall." in page


def test_a_class_of_three_without_pictures_leaves_the_others_defined(
    three: Path, pictures: list[Path], tmp_path: Path
) -> None:
    data = lay(tmp_path / "data", pictures, "test/class 2", "test/class 0")
    (data / "test" / "class 1").mkdir()  # an empty folder is no class
    evaluation = evaluate(three, data, None, tmp_path / "out")
    document, page = written(tmp_path / "out")
    undefined = {name for name, figure in document["figures"].items() if figure["value"] is None}
    assert undefined == document["figures"].keys() - ALWAYS
    by_class = document["class_figures"]
    assert {name for name in by_class if None not in [figure["value"] for figure in by_class[name].values()]} == {
        "class 0",
        "class 2",
    }
    assert by_class["class 1"]["sensitivity"]["undefined"] == "no picture of class 1"
    assert by_class["class 1"]["specificity"]["value"] is not None  # of the pictures of others
    assert document["data"]["pictures_by_class"] == {"class 0": 6, "class 1": 0, "class 2": 6}
    assert document["classes"] == ["class 0", "class 1", "class 2"]
    assert (
        "undefined: no picture of class 1" in evaluation.text() and "class 1 0 undefined: no picture of class 1" in page
    )


def test_a_table_with_other_columns_and_classes_in_any_order_is_evaluated(
    two: Path, pictures: list[Path], tmp_path: Path
) -> None:
    lay(tmp_path / "data", pictures, "x")
    rows = [f"{number};{('malignant', 'benign')[number % 2]};x\\{path.name}" for number, path in enumerate(pictures)]
    (tmp_path / "data" / "labels.csv").write_text("\n".join(["age;Label;Path", *rows]), encoding="utf-16")
    evaluate(two, tmp_path / "data", None, tmp_path / "out")
    document, _ = written(tmp_path / "out")
    assert [row["label"] for row in document["pictures"]] == ["malignant", "benign"] * 6
    assert all(None not in figure.values() for figure in document["figures"].values())
    assert document["remarks"] == []


def test_pictures_of_one_group_have_figures_without_intervals(two: Path, pictures: list[Path], tmp_path: Path) -> None:
    lay(tmp_path / "data", pictures, "x")
    rows = [f"x/{path.name},{('malignant', 'benign')[number % 2]},one" for number, path in enumerate(pictures)]
    (tmp_path / "data" / "labels.csv").write_text("\n".join(["path,label,group", *rows]))
    evaluation = evaluate(two, tmp_path / "data", None, tmp_path / "out")
    document, page = written(tmp_path / "out")
    for figure in document["figures"].values():
        assert figure["value"] is not None and (figure["low"], figure["high"]) == (None, None)
    for text in (evaluation.text(), page):
        assert "no interval: all pictures are of one group" in text


def test_a_bundle_that_names_no_positive_class_says_which_was_taken(
    two: Path, pictures: list[Path], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(two, tmp_path / "bundle"))
    edit(bundle, lambda fields: fields.update(decision=None))
    data = lay(tmp_path / "data", pictures, "benign", "malignant")
    evaluation = evaluate(bundle, data, None, tmp_path / "out")
    document, page = written(tmp_path / "out")
    said = "the bundle names no positive class: metrics are those of its last class, malignant"
    assert document["remarks"] == [said] and said in page and said in evaluation.text()
    assert document["decision"] == {"positive": "malignant", "threshold": None}


def test_what_was_left_out_is_said_with_the_figures(two: Path, pictures: list[Path], tmp_path: Path) -> None:
    data = lay(tmp_path / "data", pictures, "Testing/benign", "Testing/malignant")
    (data / "Testing" / "benign" / "scan.dcm").write_bytes(bytes(128) + b"DICM")
    evaluation = evaluate(two, data, None, tmp_path / "out")
    document, page = written(tmp_path / "out")
    said = document["remarks"]
    assert said[0] == "splits: Testing was read as test" and "1 .dcm (a DICOM file)" in said[1]
    for remark in said:
        assert remark in evaluation.text() and remark in page


def test_classes_that_the_bundle_lacks_are_still_refused(two: Path, pictures: list[Path], tmp_path: Path) -> None:
    data = lay(tmp_path / "data", pictures, "benign", "Malignant")
    with pytest.raises(DataError, match="classes are benign, malignant, but pictures are labelled Malignant"):
        evaluate(two, data, None, tmp_path / "out")


@pytest.mark.parametrize("layout", ["empty folder", "folder of an empty class", "nothing but a scan"])
def test_data_without_pictures_is_refused(layout: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data if layout == "empty folder" else data / "cat").mkdir(parents=True)
    if layout == "nothing but a scan":
        (data / "cat" / "scan").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(DataError, match="a DICOM file" if layout == "nothing but a scan" else "data"):
        read_split(data, None)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 4), st.integers(0, 2**32), st.data())
def test_a_figure_is_the_metrics_value_or_undefined_for_want_of_a_class(
    classes: int, seed: int, data: st.DataObject
) -> None:
    """Whichever classes occur. What is defined does not change when a class is added that no picture has."""
    occurring = data.draw(st.sets(st.integers(0, classes - 1), min_size=1))
    rng = np.random.default_rng(seed)
    labels = rng.choice(sorted(occurring), 12)
    occurring = {*labels.tolist()}
    probabilities = rng.dirichlet(np.ones(classes), 12)
    rule = DecisionRule(data.draw(st.sampled_from([0, 1])), 0.5) if classes == 2 else DecisionRule()
    names = [f"class {number}" for number in range(classes)]
    pictures = Pictures(names, probabilities, labels, [str(number) for number in range(12)])
    figures, class_figures = metric_values(pictures, rule, 10, 0)
    missing = [name for number, name in enumerate(names) if number not in occurring]
    metrics = classification_metrics(classes, rule)
    for name, figure in figures.items():
        if figure.value is None:
            assert missing and figure.reason == f"no picture of {', '.join(missing)}"
        else:
            assert figure.value == metrics[name](probabilities, labels) and np.isfinite(figure.value)
            assert figure.low is not None and figure.high is not None and np.isfinite([figure.low, figure.high]).all()
    assert {name for name, figure in figures.items() if figure.value is not None} >= ALWAYS
    assert figures["nll"].value == pytest.approx(nll(probabilities, labels))
    if not missing:
        assert all(figure.value is not None for figure in figures.values())
    for number, name in enumerate(names if class_figures else ()):
        defined = {metric for metric, figure in class_figures[name].items() if figure.value is not None}
        assert ("sensitivity" in defined) == (number in occurring)
        assert ("specificity" in defined) == bool(occurring - {number})
        assert (defined >= RANKING) == (RANKING & defined != set()) == (number in occurring and len(occurring) > 1)


def test_what_a_run_skipped_is_not_evaluated(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "data", 8, seed=0)
    samples = read_samples(tmp_path / "data")
    of_val = [sample for sample in samples if sample.split == "val"]
    recipe = load_recipe("smoke")
    run = Run(tmp_path / "run", recipe, classes_of(samples), tuple(samples))
    run.folder.mkdir()
    write_run(run)
    run.log.write_text(json.dumps({"kind": "skipped", "picture": str(of_val[0].path)}) + "\n")
    of_val[0].path.unlink()
    assert samples_of_split(run.folder, None) == of_val[1:]
