"""Groups: all spellings of one are one, and a value that is missing is none."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.groups import group_key, settle_groups
from training.data.sample import DataError, Sample
from training.data.samples import read_data_set
from training.data.split import split_samples

ONE = {
    "1": ["1", "01", "1.0", "1.00", "+1", "1,0", "1e+00", " 1 ", "１"],
    "123456789012345678": ["123456789012345678", "123456789012345678.0"],
    "2.5": ["2.5", "2.50", "2,5"],
    "Patient 7": ["Patient 7", "patient 7", "PATIENT7", "patient\u00a07", "Patient  7", "pat\u200bient 7"],
    "é": ["é", "e\u0301", "É"],
    "P-1": ["P-1", "p‑1", "Ｐ-1"],
    "★": ["★"],
    "NaN Smith": ["NaN Smith"],
    "P1": ["P1"],
    "1-1": ["1-1"],
    "11": ["11", "11.0"],
}  # fmt: skip
UNKNOWN = ["nan", "NaN", "-nan", "None", "NULL", "N/A", "n.a.", "NA", "<NA>", "#N/A", "NaT", "?", "-", "…", "unknown"]
SPELLINGS = [spelling for spellings in ONE.values() for spelling in spellings]


def samples(*groups: str | None) -> list[Sample]:
    return [Sample(Path(f"{n}.png"), "ab"[n % 2], group, None, None) for n, group in enumerate(groups)]


@pytest.mark.parametrize("name", ONE)
def test_all_spellings_of_a_group_are_one_by_the_first(name: str) -> None:
    settled, findings = settle_groups(samples(*ONE[name]))
    assert {sample.group for sample in settled} == {ONE[name][0]}
    assert len(findings) == (len(ONE[name]) > 1)


def test_other_groups_are_others() -> None:
    for first, second in combinations(ONE, 2):
        assert group_key(first) != group_key(second), (first, second)


@pytest.mark.parametrize("value", UNKNOWN)
def test_an_unknown_patient_is_not_one_patient(value: str) -> None:
    settled, (finding,) = settle_groups(samples(value, value, None, "P1"))
    assert [sample.group for sample in settled] == [None, None, None, "P1"]
    assert (
        finding.kind == "group"
        and f"2 picture(s) have a group that says that it is unknown: {value} (2)" in finding.sentence
    )


@given(st.lists(st.none() | st.sampled_from(SPELLINGS + UNKNOWN)))
def test_settled_groups_stay_as_they_are(groups: list[str | None]) -> None:
    settled, _ = settle_groups(samples(*groups))
    again, findings = settle_groups(settled)
    assert again == settled and findings == []
    for one, group in zip(settled, groups, strict=True):
        assert group_key(one.group) == group_key(group)


def test_a_patient_in_two_spellings_is_on_one_side_of_the_split(tmp_path: Path) -> None:
    """As a column of whole numbers becomes when pandas writes it with gaps: `7` in one part, `7.0` in the other."""
    rows = ["path,label,group,split"]
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(b"")
        rows.append(f"{number}.png,{'ab'[number % 2]},{['7', '7.0', 'nan', ''][number % 4]},")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    read = read_data_set(tmp_path).samples
    for seed in range(5):
        split = {sample.path.name: sample.split for sample in split_samples(read, 0.4, seed)}
        assert len({split[f"{number}.png"] for number in (0, 1, 4, 5)}) == 1
    (tmp_path / "labels.csv").write_text(
        "\n".join([rows[0], *(row + "train" if ",7," in row else row + "val" for row in rows[1:])])
    )
    with pytest.raises(DataError, match="group 7 has pictures in train and val"):
        split_samples(read_data_set(tmp_path).samples, 0.4, 0)
