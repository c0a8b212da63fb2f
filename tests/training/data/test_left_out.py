"""Pictures of a value of a column that are kept for test, with and without a split of the data's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from training.data.samples import DataError, Sample, split_samples


def samples(split: bool) -> list[Sample]:
    """Pictures of three clinics, both classes in each; a patient has two."""
    made = []
    for number in range(60):
        own = ("val" if number % 10 < 2 else "train") if split else None
        clinic = {"clinic": "ABC"[number // 20]}
        made.append(Sample(Path(f"{number}.png"), "ab"[number % 2], f"p{number // 4}", own, None, clinic))
    return made if not split else [one for one in made if int(one.path.stem) % 4 in (0, 1)]


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("leave_out", [{"Clinic": ["B"]}, {"clinic": ["B", "C"]}])
def test_what_is_left_out_is_in_test_and_nothing_else_is(split: bool, leave_out: Mapping[str, Sequence[str]]) -> None:
    (values,) = leave_out.values()
    assigned = split_samples(samples(split), 0.25, 0, leave_out=leave_out)
    assert {one.columns["clinic"] for one in assigned if one.split == "test"} == {*values}
    assert {one.split for one in assigned if one.columns["clinic"] not in values} == {"train", "val"}
    if split:
        kept = [one for one in assigned if one.split != "test"]
        assert kept == [one for one in samples(True) if one.columns["clinic"] not in values]


def test_nothing_is_left_out_unless_it_is_said() -> None:
    assert split_samples(samples(True), 0.25, 0) == samples(True)


def test_a_patient_of_two_clinics_is_refused() -> None:
    made = samples(False)
    made[19] = Sample(made[19].path, made[19].label, "p9", None, None, {"clinic": "A"})  # of a patient of clinic B
    with pytest.raises(DataError, match="group p9 has pictures in test and train"):
        split_samples(made, 0.25, 0, leave_out={"clinic": ["B"]})


@pytest.mark.parametrize(
    ("leave_out", "sentence"),
    [
        ({"clinic": ["D"]}, "no picture has D in a column clinic .*: it has A, B, C"),
        ({"site": ["A"]}, "no picture has A in a column site .*: it has no values at all"),
        ({"clinic": ["A", "B", "C"]}, "class a has no picture in train"),
    ],
)
def test_what_cannot_be_left_out_is_told(leave_out: Mapping[str, Sequence[str]], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        split_samples(samples(False), 0.25, 0, leave_out=leave_out)
