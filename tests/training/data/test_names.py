"""Splits are known in every usual spelling, and nothing else is taken for one. Classes can be told apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from training.data.doctor import examine
from training.data.names import is_split_name, name_findings, split_of
from training.data.sample import DataError, Sample
from training.data.samples import read_data_set, read_training_set

WORDS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}


@pytest.mark.parametrize(("split", "word"), [(split, word) for split, words in WORDS.items() for word in words])
def test_every_spelling_of_a_split_is_known(split: str, word: str) -> None:
    for spelled in (word, word.upper(), word.title(), f" {word} "):
        for written in (
            spelled,
            f"{spelled}_set",
            f"{spelled}-images",
            f"{spelled} data",
            f"1_{spelled}",
            f"{spelled}set",
        ):
            assert split_of(written) == split, written
    assert split_of(f"{word.title()}Set") == split


@pytest.mark.parametrize("name", ["eval", "Evaluation", "holdout", "hold-out", "held out", "train_val", "train-test"])
def test_what_may_mean_more_than_one_split_is_refused(name: str) -> None:
    assert is_split_name(name)
    with pytest.raises(DataError, match="may mean more than one of train, val, test, calibration"):
        split_of(name)


@pytest.mark.parametrize(
    "name",
    ["cat", "contest", "latest", "trainer", "restrain", "blood test", "device", "valley", "fold1", "set", "1", "", "é"],
)
def test_other_words_are_no_splits(name: str) -> None:
    assert not is_split_name(name)
    with pytest.raises(DataError, match="unknown split"):
        split_of(name)


@pytest.mark.parametrize(
    ("one", "other"), [("cat", "c\u0430t"), ("5 \u00b5m", "5 \u03bcm"), ("a b", "a\u00a0b"), ("a-b", "a\u2011b")]
)
def test_classes_that_nobody_can_tell_apart_are_refused_and_shown_apart(one: str, other: str, tmp_path: Path) -> None:
    for number, label in enumerate((one, other, "dog")):
        (tmp_path / label).mkdir()
        Image.new("L", (8, 8), number).save(tmp_path / label / "1.png")
    for read in (read_training_set, examine):
        with pytest.raises(DataError, match=rf"{re.escape(ascii(one))} .*{re.escape(ascii(other))} .*look the same"):
            read(tmp_path)
    assert any("look the same" in remark for remark in read_data_set(tmp_path).remarks)


def test_what_can_be_told_apart_with_care_is_asked_about() -> None:
    for one, other in (
        ("Benign", "benign"),
        ("mole a", "mole_a"),
        ("1", "1.0"),
        ("01", "1"),
        ("stra\u00dfe", "strasse"),
    ):
        labels = (one, other, "other")
        (finding,) = name_findings([Sample(Path(label), label, None, None, None) for label in labels])
        assert finding.kind == "label" and one in finding.sentence and other in finding.sentence
