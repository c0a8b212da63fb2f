"""Further columns: all spellings of a value are one, as it was written first."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest

from training.data.samples import DataSet, read_data_set, split_samples

ZURICH = [unicodedata.normalize(form, "Zürich") for form in ("NFC", "NFD")]
SPELLINGS = {
    "Unicode's forms": ZURICH,
    "case": ["clinic B", "Clinic B", "CLINIC B"],
    "blanks": ["clinic B", " clinic  B", "clinic\u00a0B"],
    "numbers": ["7", "7.0", "07"],
    "letters that look alike": ["A1", "А1"],
}


def table(root: Path, values: Sequence[str], column: str = "source") -> DataSet:
    lines = [f"path,label,{column}"]
    for number in range(12 * len(values)):
        (root / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        lines.append(f'{number}.png,{"ab"[number % 2]},"{values[number // 12]}"')
    (root / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    return read_data_set(root)


@pytest.mark.parametrize("kind", SPELLINGS)
def test_all_spellings_of_a_value_are_one_and_it_is_said(kind: str, tmp_path: Path) -> None:
    spellings = SPELLINGS[kind]
    read = table(tmp_path, [*spellings, "other"])
    assert {sample.columns["source"] for sample in read.samples} == {spellings[0].strip(), "other"}
    if kind not in ("Unicode's forms", "blanks"):  # a difference that nobody can mean is not told
        (sentence,) = [finding.sentence for finding in read.findings if "column source" in finding.sentence]
        assert "1 value(s) have several spellings" in sentence


@pytest.mark.parametrize("kind", SPELLINGS)
def test_a_source_is_left_out_in_all_its_spellings_by_any_of_them(kind: str, tmp_path: Path) -> None:
    read = table(tmp_path, [*SPELLINGS[kind], "other"])
    for named in SPELLINGS[kind]:
        assigned = split_samples(read.samples, 0.25, 0, leave_out={"source": [named]})
        assert {sample.columns["source"] for sample in assigned if sample.split != "test"} == {"other"}


def test_words_that_are_parted_otherwise_are_other_values(tmp_path: Path) -> None:
    boxes = ["0 10 224 224", "1 0 224 224", "010 224 224"]
    read = table(tmp_path, boxes)
    assert [sample.columns["source"] for sample in read.samples[::12]] == boxes


def test_values_that_say_that_nothing_is_known_stay_as_they_are(tmp_path: Path) -> None:
    read = table(tmp_path, ["NA", "unknown", "?", "-"])
    assert [sample.columns["source"] for sample in read.samples[::12]] == ["NA", "unknown", "?", "-"]


@pytest.mark.parametrize(
    "name", [*(unicodedata.normalize(form, "Klinik für") for form in ("NFC", "NFD")), "KLINIK FÜR"]
)
def test_a_column_has_one_name(name: str, tmp_path: Path) -> None:
    read = table(tmp_path, ["a", "b"], name)
    assigned = split_samples(read.samples, 0.25, 0, leave_out={unicodedata.normalize("NFD", "Klinik Für"): ["b"]})
    assert {sample.columns["klinik für"] for sample in assigned if sample.split == "test"} == {"b"}
