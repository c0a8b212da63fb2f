"""Which pictures an epoch shows: shares of labels within a column, groups that count once, epochs of any length."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.samples import Sample
from training.errors import TrainingProblem
from training.loading.draws import Draws, draws_of, shares_of
from training.recipe.config import Recipe

Fields = dict[str, Any]
CLASSES = ("benign", "malignant")
# Of each source, benign and malignant pictures: the source tells much about the label.
SOURCES = {"clinic": (300, 30), "archive": (40, 60), "phone": (50, 20)}


def sample(number: int, label: str, source: str | None = None, group: str | None = None) -> Sample:
    return Sample(Path(f"{number}.png"), label, group, "train", None, {} if source is None else {"source": source})


def table(sources: dict[str, tuple[int, int]] = SOURCES) -> list[Sample]:
    rows = [
        (label, name)
        for name, both in sources.items()
        for label, n in zip(CLASSES, both, strict=True)
        for _ in range(n)
    ]
    return [sample(number, label, name) for number, (label, name) in enumerate(rows)]


def drawn(samples: Sequence[Sample], classes: Sequence[str] = CLASSES, **fields: Any) -> Draws:
    recipe = Recipe.model_validate({"name": "drawn", **fields})
    return draws_of(recipe, samples, [classes.index(one.label) for one in samples], classes)


@pytest.mark.parametrize("label", [0.5, 0.2, {"malignant": 0.7}, {"benign": 0.4, "malignant": 0.6}])
def test_labels_have_their_shares_within_every_value_of_the_column_and_values_keep_theirs(label: object) -> None:
    samples = table()
    order = drawn(samples, balance={"label": label, "within": "Source"}, epoch_pictures=60_000).order(3)
    share = label["malignant"] if isinstance(label, dict) else label
    assert len(order) == 60_000
    for name, both in SOURCES.items():
        of_source = [samples[index].label for index in order if samples[index].columns["source"] == name]
        assert len(of_source) / len(order) == pytest.approx(sum(both) / len(samples), abs=0.02)
        assert of_source.count("malignant") / len(of_source) == pytest.approx(share, abs=0.02)
    counts = Counter(order.tolist())
    alike = [
        counts[index]
        for index, one in enumerate(samples)
        if one.columns["source"] == "clinic" and one.label == "benign"
    ]
    assert np.std(alike) < 2 * np.sqrt(np.mean(alike))  # within a source and a label, all are drawn equally often


def test_without_a_column_the_shares_are_those_of_all_draws_and_unnamed_classes_keep_their_proportions() -> None:
    classes = ("a", "b", "c")
    samples = [sample(number, "aaabbbbbbc"[number % 10]) for number in range(100)]
    order = drawn(samples, classes, balance={"label": {"c": 0.4}}, epoch_pictures=40_000).order(0)
    shares = Counter(samples[index].label for index in order)
    assert {name: shares[name] / 40_000 for name in classes} == pytest.approx({"a": 0.2, "b": 0.4, "c": 0.4}, abs=0.015)


@pytest.mark.parametrize("balance", [None, {"label": 0.5}])
def test_a_group_is_drawn_as_often_as_a_single_picture(balance: Fields | None) -> None:
    samples = [
        sample(number, CLASSES[number % 2], None, f"g{number % 2}" if number < 20 else None) for number in range(40)
    ]
    order = drawn(samples, count_by="group", epoch_pictures=60_000, balance=balance).order(0)
    counts = Counter(order.tolist())
    singles = np.mean([counts[number] for number in range(20, 40)])
    for parity in (0, 1):
        of_group = sum(counts[number] for number in range(20) if number % 2 == parity)
        assert of_group == pytest.approx(singles, rel=0.1)


@given(st.integers(1, 40), st.integers(1, 100), st.integers(0, 2**40))
def test_epochs_of_any_length_go_through_all_pictures_again_and_again(count: int, length: int, seed: int) -> None:
    samples = [sample(number, CLASSES[number % 2]) for number in range(count)]
    draws = drawn(samples, epoch_pictures=length, seed=seed)
    stream = np.concatenate([draws.order(epoch) for epoch in range(2 * count // length + 2)])
    assert all(len(draws.order(epoch)) == length for epoch in range(3))
    for first in range(0, len(stream) - count + 1, count):
        assert sorted(stream[first : first + count]) == list(range(count))
    if length == count:
        assert np.array_equal(draws.order(1), drawn(samples, seed=seed).order(1))


@pytest.mark.parametrize(
    ("samples", "classes", "balance", "sentence"),
    [
        (
            table(),
            CLASSES,
            {"label": 0.5, "within": "site"},
            "490|500 .*no value in a column site.*the table has source",
        ),
        ([*table(), sample(999, "benign")], CLASSES, {"label": 0.5, "within": "source"}, "1 of 501 .*999.png"),
        (table({"a": (5, 5), "b": (5, 0)}), CLASSES, {"label": 0.5, "within": "source"}, "of b have none of malignant"),
        (table(), CLASSES, {"label": {"melanoma": 0.5}}, "melanoma is no class: the classes are benign, malignant"),
        (table(), CLASSES, {"label": {"benign": 0.5, "malignant": 0.4}}, "the shares add up to 0.9"),
        ([sample(n, "abc"[n % 3]) for n in range(9)], ("a", "b", "c"), {"label": 0.5}, "3 classes.*{a: 0.5}"),
        ([sample(n, "abc"[n % 3]) for n in range(9)], ("a", "b", "c"), {"label": {"a": 0.5, "b": 0.5}}, "add up to 1"),
        (  # the sum is 1 less a rounding error
            [sample(n, "abcd"[n % 4]) for n in range(8)],
            tuple("abcd"),
            {"label": {"a": 0.7, "b": 0.2, "c": 0.1}},
            "add up to 1: .*, and d must have some of it",
        ),
        (table({"a": (9, 9)}), CLASSES, {"label": 0.3}, "none of benign and malignant is the rarer one.*{benign: 0.3}"),
    ],
)
def test_what_cannot_be_balanced_is_refused_in_a_sentence(
    samples: list[Sample], classes: Sequence[str], balance: Fields, sentence: str
) -> None:
    with pytest.raises(TrainingProblem, match=f"balance.*{sentence}|{sentence}"):
        drawn(samples, classes, balance=balance)


def test_a_class_is_meant_in_either_of_unicodes_forms() -> None:
    accents, letters = "mélanome", unicodedata.normalize("NFD", "mélanome")
    samples = [sample(number, ("autre", accents)[number % 2]) for number in range(10)]
    draws = drawn(samples, ("autre", accents), balance={"label": {letters: 0.2}})
    shares = shares_of(draws, [number % 2 for number in range(10)], ("autre", accents))
    assert shares == pytest.approx({"autre": 0.8, accents: 0.2})
    with pytest.raises(ValueError, match="name one class twice"):
        Recipe.model_validate({"name": "drawn", "balance": {"label": {accents: 0.2, letters: 0.3}}})


def test_groups_cannot_count_where_there_are_none() -> None:
    with pytest.raises(TrainingProblem, match="count_by: group, but no picture of train has a group"):
        drawn(table(), count_by="group")


def test_heads_on_a_fixed_trunk_are_balanced_in_every_epoch() -> None:
    """A recipe may have a stage with pictures without labels, which such heads do not see."""
    taught = {"name": "taught", "epochs": 1, "cnn": "frozen", "head": "frozen"}
    taught |= {"distil": {"from": "cnn", "unlabelled": "others"}}
    stages = [taught, {"name": "all", "epochs": 1}]
    samples = table()
    draws = drawn(samples, balance={"label": 0.5}, stages=stages, epoch_pictures=4000)
    for epoch in (0, 1):
        malignant = [samples[index].label == "malignant" for index in draws.order(epoch)]
        assert np.mean(malignant) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("imbalance", ["class_weights", "logit_adjustment"])
def test_groups_that_count_once_do_not_go_with_frequencies_of_pictures(imbalance: str) -> None:
    with pytest.raises(ValueError, match="count_by: group draws the classes in other shares"):
        Recipe.model_validate({"name": "drawn", "count_by": "group", "imbalance": imbalance})


def test_two_ways_against_imbalance_are_refused() -> None:
    with pytest.raises(ValueError, match="balance and imbalance: class_weights both"):
        Recipe.model_validate({"name": "drawn", "balance": {"label": 0.5}, "imbalance": "class_weights"})
