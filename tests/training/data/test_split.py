"""Splits keep groups together and classes in proportion."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.samples import DataError, Sample, groups_in_several_splits, split_samples

PETS = [
    Sample(Path("/data/a.png"), "cat", "tom", "train", None),
    Sample(Path("/data/b.png"), "dog", None, "train", None),
    Sample(Path("/data/c.png"), "cat", "kit", "val", None),
    Sample(Path("/data/d.png"), "dog", "rex", "val", None),
]


def test_a_split_that_the_data_has_is_kept() -> None:
    samples = PETS
    assert split_samples(samples, 0.5, 0) == samples


def test_a_group_on_two_sides_of_a_given_split_is_refused() -> None:
    samples = [replace(sample, group="tom") for sample in PETS]
    assert groups_in_several_splits(samples) == {"tom": samples}
    with pytest.raises(DataError, match=r"group tom has pictures in train and val; in all, 1 group"):
        split_samples(samples, 0.5, 0)


@pytest.mark.parametrize("side", ["train", "val"])
def test_a_given_split_without_a_class_on_a_side_is_refused(side: str) -> None:
    samples = [sample for sample in PETS if (sample.label, sample.split) != ("cat", side)]
    with pytest.raises(DataError, match=f"class cat has no picture in {side}"):
        split_samples(samples, 0.5, 0)


def test_a_class_of_one_group_cannot_be_split() -> None:
    samples = [*made("cat", [1, 1, 1]), *made("dog", [5])]
    with pytest.raises(DataError, match=r"class dog has no picture in .*at least two groups"):
        split_samples(samples, 0.2, 0)


def made(label: str, sizes: Sequence[int]) -> list[Sample]:
    """Pictures of one label, in groups of these sizes; a group of one is none."""
    return [
        Sample(Path(f"/data/{label}/{group}-{number}.png"), label, f"{label}{group}" if size > 1 else None, None, None)
        for group, size in enumerate(sizes)
        for number in range(size)
    ]


group_sizes = st.lists(st.integers(1, 6), min_size=2, max_size=12)
shares = st.floats(0.05, 0.95)
seeds = st.integers(0, 2**31)


@settings(max_examples=60, deadline=None)
@given(st.lists(group_sizes, min_size=2, max_size=4), st.lists(st.integers(0, 99), max_size=8), shares, seeds)
def test_groups_stay_whole_classes_stand_on_both_sides_and_order_does_not_matter(
    classes: list[list[int]], joined: list[int], share: float, seed: int
) -> None:
    """Also where groups have several labels: `joined` more pictures go to any of three such groups."""
    samples = [sample for number, sizes in enumerate(classes) for sample in made(f"c{number}", sizes)]
    samples += [
        Sample(Path(f"/data/joined/{number}.png"), f"c{pick % len(classes)}", f"joined{pick % 3}", None, None)
        for number, pick in enumerate(joined)
    ]
    placed = split_samples(samples, share, seed)
    assert [replace(sample, split=None) for sample in placed] == samples
    assert not groups_in_several_splits(placed)
    assert {(s.label, s.split) for s in placed} == {
        (f"c{number}", side) for number in range(len(classes)) for side in ("train", "val")
    }
    shuffled = random.Random(seed).sample(samples, len(samples))
    assert sorted(split_samples(shuffled, share, seed), key=lambda s: s.path) == sorted(placed, key=lambda s: s.path)


@settings(max_examples=60, deadline=None)
@given(st.lists(group_sizes, min_size=2, max_size=3), shares, seeds)
def test_each_class_meets_its_share_to_half_of_the_smallest_group_that_can_move(
    classes: list[list[int]], share: float, seed: int
) -> None:
    placed = split_samples([s for number, sizes in enumerate(classes) for s in made(f"c{number}", sizes)], share, seed)
    for number, sizes in enumerate(classes):
        members = [sample for sample in placed if sample.label == f"c{number}"]
        in_val = sum(sample.split == "val" for sample in members)
        fuller = "val" if in_val > share * len(members) else "train"
        there = Counter(sample.group or sample.path for sample in members if sample.split == fuller)
        if len(there) > 1:
            assert abs(in_val - share * sum(sizes)) <= min(there.values()) / 2 + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_large_groups_give_their_share_to_each_side(seed: int) -> None:
    placed = split_samples([*made("cat", [8] * 10 + [1] * 80), *made("dog", [1] * 9)], 0.2, seed)
    assert Counter(sample.split for sample in placed if sample.group) == {"train": 64, "val": 16}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 6), min_size=3, max_size=12), min_size=2, max_size=3), shares, shares, seeds)
def test_what_is_set_aside_for_calibration_is_whole_groups_of_train(
    classes: list[list[int]], val_share: float, calibration_share: float, seed: int
) -> None:
    samples = [sample for number, sizes in enumerate(classes) for sample in made(f"c{number}", sizes)]
    before = split_samples(samples, val_share, seed)
    try:
        placed = split_samples(samples, val_share, seed, calibration_share)
    except DataError as error:  # val has taken all groups of a class but one
        one_left = [len({s.group or s.path for s in before if (s.label, s.split) == (f"c{n}", "train")}) == 1
                    for n in range(len(classes))]  # fmt: skip
        assert any(one_left) and "at least three groups" in str(error)
        return
    assert not groups_in_several_splits(placed)
    moved = [(old.split, new.split) for old, new in zip(before, placed, strict=True) if old != new]
    assert {*moved} == {("train", "calibration")}
    for number in range(len(classes)):
        assert {"train", "val", "calibration"} == {s.split for s in placed if s.label == f"c{number}"}
    assert split_samples(placed, val_share, seed, calibration_share) == placed  # what the data has is kept


def test_the_seed_draws_the_split() -> None:
    samples = [*made("cat", [1] * 20), *made("dog", [2] * 20)]
    splits = {tuple(sample.split for sample in split_samples(samples, 0.2, seed)) for seed in range(20)}
    assert len(splits) == 20
