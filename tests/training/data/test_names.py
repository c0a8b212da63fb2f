"""Splits are known in every usual spelling, and nothing else is taken for one."""

from __future__ import annotations

import pytest

from training.data.names import is_split_name, split_of
from training.data.sample import DataError

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
    with pytest.raises(DataError, match="may mean more than one of train, val, test"):
        split_of(name)


@pytest.mark.parametrize(
    "name",
    ["cat", "contest", "latest", "trainer", "restrain", "blood test", "device", "valley", "fold1", "set", "1", "", "é"],
)
def test_other_words_are_no_splits(name: str) -> None:
    assert not is_split_name(name)
    with pytest.raises(DataError, match="unknown split"):
        split_of(name)
