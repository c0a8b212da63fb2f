"""Runs whose draws are balanced within a column: what the log says of it, and that a resumed run draws the same."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.loop.test_best import fit, records
from tests.training.loop.test_resume import same
from training.cli import main
from training.data.draw import draw_dataset
from training.data.samples import load_samples

CHANGES = (
    *("balance={label: 0.5, within: source}", "count_by=group", "epoch_pictures=12", "val_share=0.5"),
    "augmentation.cnn.jpeg=0.5",
)


def with_column(data: Path, source_of: Callable[[int, dict[str, str]], str]) -> None:
    """Add the column to the table of drawn pictures, by the number of the row and its cells."""
    with (data / "labels.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    with (data / "labels.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, [*dict.fromkeys([*rows[0], "source"])])
        writer.writeheader()
        writer.writerows(row | {"source": source_of(number, row)} for number, row in enumerate(rows))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three sources, one of which has a single class in val."""
    folder = tmp_path_factory.mktemp("balanced") / "data"
    draw_dataset(folder, 48, seed=5)
    with_column(
        folder,
        lambda number, row: "third" if row["split"] == "val" and row["label"] == "benign" else "ab"[number // 2 % 2],
    )
    return folder


def test_a_run_says_how_it_does_within_every_value_and_is_the_same_when_resumed(data: Path, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert fit(data, whole, *CHANGES) == 0
    epochs = records(whole, "epoch")
    assert [record["update"] for record in epochs] == [3, 6, 9]  # three epochs of twelve draws in batches of four
    for record in epochs:
        within = record["val_within"]
        assert within.keys() == {"a", "b", "third"} and within["third"]["auroc"] is None
        pictures = {value: metrics["pictures"] for value, metrics in within.items()}
        correct = sum(pictures[value] * metrics["accuracy"] for value, metrics in within.items())
        assert correct / sum(pictures.values()) == pytest.approx(record["val"]["accuracy"])
    assert {sample.columns["source"] for sample in load_samples(whole / "samples.csv")} == {"a", "b", "third"}
    shutil.copytree(whole, resumed)
    (resumed / "ema.safetensors").unlink()
    for checkpoint in sorted((resumed / "checkpoints").glob("*.pt"))[1:]:
        checkpoint.unlink()
    assert fit(data, resumed, *CHANGES, resume=True) == 0
    same(whole, resumed)


def test_a_run_is_not_resumed_with_other_values_of_its_column(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(data, other)
    assert fit(other, run, *CHANGES) == 0
    with_column(other, lambda number, row: "somewhere else")
    assert fit(other, run, *CHANGES, resume=True) == 1
    assert "has the source somewhere else and not " in capsys.readouterr().err


def test_folders_of_classes_have_no_column_to_balance_within(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for picture in data.glob("*/*/*.png"):
        place = tmp_path / "data" / picture.parent.name / picture.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, place)
    assert fit(tmp_path / "data", tmp_path / "run", *CHANGES) == 1
    assert "no value in a column source" in capsys.readouterr().err
    assert main(["plan", "smoke", "-s", CHANGES[0]]) == 0
