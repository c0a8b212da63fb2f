"""The metrics of parts of the pictures are those of an evaluation of these pictures alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training.data.samples import Sample
from training.evaluation.metric_values import Pictures, metric_values
from training.evaluation.subgroups import METRICS, columns_of_too_many_values, subgroups
from training.metrics.classification import DecisionRule

RULE = DecisionRule(1, 0.4)


def evaluated(columns: list[dict[str, str]], labels: list[int]) -> tuple[list[Sample], Pictures]:
    classes = ("benign", "malignant")
    samples = [
        Sample(Path(f"{number}.png"), classes[label], None, None, None, cells)
        for number, (label, cells) in enumerate(zip(labels, columns, strict=True))
    ]
    positive = np.random.default_rng(0).random(len(labels))
    paths = tuple(str(sample.path) for sample in samples)
    return samples, Pictures(classes, np.column_stack([1 - positive, positive]), np.array(labels), paths)


def test_each_value_has_the_metrics_of_its_pictures() -> None:
    labels = [number % 2 for number in range(60)]
    columns = [{"source": "abc"[number // 2 % 3], "sex": "female" if number < 20 else ""} for number in range(60)]
    samples, pictures = evaluated([{k: v for k, v in cells.items() if v} for cells in columns], labels)
    found = subgroups(samples, pictures, RULE, 50, 0)
    assert {column: [*parts] for column, parts in found.items()} == {
        "sex": ["female", "no value"],
        "source": ["a", "b", "c"],
    }
    for value, part in found["source"].items():
        chosen = np.array([cells["source"] == value for cells in columns])
        truth, scores = pictures.labels[chosen], pictures.probabilities[chosen]
        assert part.metrics["auroc"].value == pytest.approx(roc_auc_score(truth, scores[:, 1]))
        groups = tuple(np.array(pictures.groups)[chosen].tolist())
        alone, _ = metric_values(Pictures(pictures.classes, scores, truth, groups), RULE, 50, 0)
        assert part.metrics == {name: alone[name] for name in METRICS}
        assert part.pictures_by_class == {"benign": 10, "malignant": 10}


def test_numbers_become_bands_of_a_quarter_each_in_their_order() -> None:
    ages = [*range(1, 41)]
    columns = [{"age": f"{age}.0", "site": str(age % 10 + 9)} for age in ages] + [{}]
    found = subgroups(*evaluated(columns, [age % 2 for age in [*ages, 0]]), RULE, 50, 0)
    assert [*found["age"]] == ["1 to 10.75", "10.75 to 20.5", "20.5 to 30.25", "30.25 to 40", "no value"]
    assert [part.pictures for part in found["age"].values()] == [10, 10, 10, 10, 1]
    assert [*found["site"]] == [*map(str, range(9, 19)), "no value"]


@pytest.mark.parametrize(
    ("numbers", "bands"),
    [
        ([20200101 + day for day in range(20)], 4),
        ([1_600_000_000 + second for second in range(40)], 4),
        ([0] * 80 + [*range(1, 21)], 2),
        ([9] * 80 + [number / 20 for number in range(20)], 2),
        ([f"{number:.{places}f}" for number in (1, 2) for places in range(8)], 2),
    ],
)
def test_bands_tell_any_numbers_apart(numbers: list[object], bands: int) -> None:
    cells = [{"number": str(number)} for number in numbers]
    found = subgroups(*evaluated(cells, [place % 2 for place in range(len(cells))]), RULE, 50, 0)
    pictures = [part.pictures for part in found["number"].values()]
    assert len(pictures) >= bands and sum(pictures) == len(numbers)


@pytest.mark.parametrize("absent", ["", "nan", "NA", "unknown", "inf", " N/A "])
def test_cells_without_a_number_do_not_hide_the_bands_of_the_others(absent: str) -> None:
    columns = [{"age": str(age)} for age in range(1, 41)] + [{"age": absent}]
    found = subgroups(*evaluated(columns, [number % 2 for number in range(41)]), RULE, 50, 0)
    assert [*found["age"]] == ["1 to 10.75", "10.75 to 20.5", "20.5 to 30.25", "30.25 to 40", "no value"]


def test_names_with_too_many_values_and_columns_with_one_value_are_no_parts() -> None:
    columns = [{"id": f"picture {number}", "year": "2026"} for number in range(40)]
    samples, pictures = evaluated(columns, [number % 2 for number in range(40)])
    assert subgroups(samples, pictures, RULE, 50, 0) == {}
    assert columns_of_too_many_values(samples) == ["id"]


def test_a_metric_that_a_value_does_not_define_says_why() -> None:
    columns = [{"dx": "nv" if number % 2 else "mel"} for number in range(20)]
    found = subgroups(*evaluated(columns, [1 - number % 2 for number in range(20)]), RULE, 50, 0)
    assert found["dx"]["nv"].metrics["auroc"].value_text == "undefined: no picture of malignant"
    assert found["dx"]["mel"].metrics["sensitivity"].value is not None


def test_every_value_of_a_source_is_a_subgroup_whether_a_number_or_one_of_many() -> None:
    columns = [{"source": str(number % 30 + 1), "age": str(number)} for number in range(120)]
    samples, pictures = evaluated(columns, [number // 30 % 2 for number in range(120)])
    assert "source" not in columns_of_too_many_values(samples, {"source"})
    found = subgroups(samples, pictures, RULE, 50, 0, {"source"})
    assert [*found["source"]] == [*map(str, range(1, 31))]
    assert len(found["age"]) == 4
