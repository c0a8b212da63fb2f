"""What a run goes on with when something has changed: pictures that broke or went, another recipe, more epochs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml

from tests.support.drawn import draws
from tests.training.loop.small_run import RECIPE
from tests.training.loop.test_resume import log_of, same
from training.cli import main
from training.data.draw import draw_dataset
from training.data.samples import load_samples
from training.recipe.load import load_recipe
from training.runs.run import read_run


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("going-on") / "data"
    draw_dataset(folder, 32, seed=5)
    return folder


@pytest.fixture(scope="module")
def whole(drawn: Path) -> Path:
    """A run to which nothing happened."""
    assert fit(drawn, drawn.parent / "whole") == 0
    return drawn.parent / "whole"


@contextmanager
def broken(picture: Path) -> Iterator[Path]:
    """A picture of which all but the beginning is lost, for a while."""
    content = picture.read_bytes()
    picture.write_bytes(content[:100])
    try:
        yield picture
    finally:
        picture.write_bytes(content)


@pytest.fixture
def last(whole: Path) -> Iterator[Path]:
    """The training picture at place 18 of 24 in the first epoch, in its update 4 of 6: broken during the test."""
    with broken(train_order(whole)[18]) as picture:
        yield picture


def train_order(run: Path) -> list[Path]:
    """The training pictures in the order of the first epoch."""
    samples = [sample for sample in load_samples(run / "samples.csv") if sample.split == "train"]
    order = draws([0] * len(samples), load_recipe(str(run / "recipe.yaml")).seed).order(0)
    return [samples[index].path for index in order]


def fit(data: Path, out: Path, *options: str) -> int:
    return main(["fit", *RECIPE, "-s", "workers=0", "--data", str(data), "--out", str(out), *options])


def records(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = (out / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


@pytest.mark.slow
def test_a_picture_that_broke_is_named_and_put_back_the_run_ends_as_if_nothing_had_happened(
    drawn: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with broken(train_order(whole)[18]) as picture:
        for options in ([], ["--resume"]):
            assert fit(drawn, tmp_path / "run", *options) == 1
            said = capsys.readouterr().err
            assert said.startswith(f"fusionlens-train: {picture} cannot be read")
            assert "--skip-unreadable 1" in said and "--resume" in said
    assert 0 < len(records(tmp_path / "run", "update")) < 6
    assert fit(drawn, tmp_path / "run", "--resume") == 0
    same(whole, tmp_path / "run")


@pytest.mark.slow
def test_skipped_it_is_recorded_and_a_resumed_run_repeats_it(
    drawn: Path, tmp_path: Path, last: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(drawn, tmp_path / "skipping", "--skip-unreadable", "1") == 0
    assert f"skipped 1 of at most 1: {last} cannot be read" in capsys.readouterr().out
    [record] = records(tmp_path / "skipping", "skipped")
    assert record["picture"] == str(last) and record["update"] == 4 and "cannot be read" in record["reason"]
    assert fit(drawn, tmp_path / "stopped") == 1
    assert fit(drawn, tmp_path / "stopped", "--resume", "--skip-unreadable", "1") == 0
    same(tmp_path / "skipping", tmp_path / "stopped")
    kept = {sample.path for sample in read_run(tmp_path / "skipping").samples}
    assert len(kept) == 31 and last not in kept


def test_not_more_are_skipped_than_was_allowed(
    drawn: Path, whole: Path, tmp_path: Path, last: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with broken(train_order(whole)[21]) as other:
        assert fit(drawn, tmp_path / "run", "--skip-unreadable", "1") == 1
    said = capsys.readouterr().err
    assert str(other) in said and "--skip-unreadable 2" in said


@pytest.mark.slow
def test_a_picture_of_val_is_left_out(drawn: Path, whole: Path, tmp_path: Path) -> None:
    [picture, *_] = [sample.path for sample in load_samples(whole / "samples.csv") if sample.split == "val"]
    with broken(picture):
        assert fit(drawn, tmp_path / "stopped") == 1
        assert fit(drawn, tmp_path / "stopped", "--resume", "--skip-unreadable", "1") == 0
    [record] = records(tmp_path / "stopped", "skipped")
    assert record["picture"] == str(picture) and record["split"] == "val"
    rates = [[entry["loss"] for entry in records(run, "update")] for run in (whole, tmp_path / "stopped")]
    assert rates[0] == rates[1]  # training is the same


def test_a_picture_that_is_gone_and_a_row_that_is_gone_are_told(
    drawn: Path, whole: Path, tmp_path: Path, last: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(drawn, tmp_path / "run") == 1
    content = last.read_bytes()
    table = drawn / "labels.csv"
    rows = table.read_text()
    try:
        last.unlink()
        assert fit(drawn, tmp_path / "run", "--resume") == 1
        said = capsys.readouterr().err
        assert f"the first is {last}" in said and "--skip-unreadable 1" in said
        table.write_text("".join(row for row in rows.splitlines(True) if last.name not in row))
        assert fit(drawn, tmp_path / "run", "--resume", "--skip-unreadable", "1") == 0
    finally:
        table.write_text(rows)
        last.write_bytes(content)
    said = capsys.readouterr().out
    assert f"{drawn} no longer has 1 picture(s), the first is {last}" in said
    assert "1 of the run's pictures are missing and will be skipped" in said


@pytest.mark.slow
def test_pictures_that_were_added_are_told_and_not_used(
    drawn: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = tmp_path / "more"
    shutil.copytree(drawn, more)
    assert fit(more, tmp_path / "run") == 0
    shutil.copy(train_order(tmp_path / "run")[0], more / "new.png")
    with (more / "labels.csv").open("a") as table:
        table.write("new.png,benign,new,train,\n")
    capsys.readouterr()
    assert fit(more, tmp_path / "run", "--resume") == 0
    assert f"{more} has gained 1 picture(s), the first is {more / 'new.png'}" in capsys.readouterr().out
    assert fit(drawn, tmp_path / "run", "--resume") == 1
    assert "is not the data that the run started with" in capsys.readouterr().err


@pytest.fixture(scope="module")
def calibrated(drawn: Path) -> Path:
    """A run on data with a split of its own, of which the recipe moves a part of train to calibration."""
    assert fit(drawn, drawn.parent / "calibrated", *CALIBRATED) == 0
    return drawn.parent / "calibrated"


CALIBRATED = ("-s", "stages=[{name: all, epochs: 1}]", "-s", "calibration_share=0.25")


@contextmanager
def table_with(data: Path, *changes: tuple[Path, str, str]) -> Iterator[None]:
    """The table of the data, in which some pictures have another split for a while, or no row if that is empty."""
    table = data / "labels.csv"
    before = table.read_text()
    rows = before.splitlines(True)
    for picture, split, other in changes:
        (number,) = (number for number, row in enumerate(rows) if row.startswith(f"{picture.relative_to(data)},"))
        assert f",{split}," in rows[number]
        rows[number] = rows[number].replace(f",{split},", f",{other},") if other else ""
    table.write_text("".join(rows))
    try:
        yield
    finally:
        table.write_text(before)


def test_a_run_that_drew_its_calibration_goes_on_with_the_same_data_and_refuses_other_splits(
    drawn: Path, calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(calibrated, tmp_path / "run"))
    by_split = {sample.split: sample.path for sample in load_samples(run / "samples.csv")}
    train, val, calibration = by_split["train"], by_split["val"], by_split["calibration"]
    assert fit(drawn, run, "--resume", *CALIBRATED) == 0
    same(calibrated, run)
    with table_with(drawn, (train, "train", "")):  # what it draws from has one picture less
        assert fit(drawn, run, "--resume", *CALIBRATED) == 0
    assert f"no longer has 1 picture(s), the first is {train}" in capsys.readouterr().out
    for picture, split, other in (
        (calibration, "train", "val"),
        (calibration, "train", "test"),
        (train, "train", "calibration"),
        (val, "val", "train"),
    ):
        with table_with(drawn, (picture, split, other)):
            assert fit(drawn, run, "--resume", *CALIBRATED) == 1
        assert "as when the run started: give the same data" in capsys.readouterr().err


@pytest.mark.slow
def test_keys_that_do_not_matter_may_change_and_the_recipe_of_the_run_follows(
    drawn: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with broken(train_order(whole)[18]):
        assert fit(drawn, out) == 1
    changes = ["-s", "workers=1", "-s", "checkpoint_updates=3", "-s", "keep_checkpoints=9"]
    assert fit(drawn, out, "--resume", *changes) == 0
    assert "the recipe has changed: workers 0 → 1" in capsys.readouterr().out
    same(whole, out)
    text = (out / "recipe.yaml").read_text()
    assert "# after update 4: workers 0 → 1\n" in text
    assert load_recipe(str(out / "recipe.yaml")).workers == 1
    assert yaml.safe_load(text)["keep_checkpoints"] == 9
    for refused in ("accumulate=2", "rates.head=0.5", "stages.1.epochs=1", "stages.0.epochs=2"):
        assert fit(drawn, out, "--resume", *changes, "-s", refused) == 1
        assert "may not change on --resume" in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_run_is_prolonged_and_says_what_that_means(
    drawn: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = ["--resume", "-s", "stages.1.epochs=3"]
    first, second = tmp_path / "first", tmp_path / "second"
    for copy in (first, second):
        shutil.copytree(whole, copy)
    assert fit(drawn, first, *longer) == 0
    said = capsys.readouterr().out
    assert (
        "prolonged from 3 to 4 epochs: from update 18 on, the learning rates are those of a run of 24 updates" in said
    )
    assert (first / "ema-00000018.safetensors").read_bytes() == (whole / "ema.safetensors").read_bytes()
    assert len(records(first, "epoch")) == 4 and [record["update"] for record in records(first, "end")] == [24]
    before, after = (records(first, "update")[update]["rate"]["head"] for update in (17, 18))
    assert before < after < 2e-3  # it jumps, to what a run of four epochs has there
    with broken(train_order(whole)[18]):  # interrupts the other in its fourth epoch
        assert fit(drawn, second, *longer) == 1
    assert fit(drawn, second, *longer) == 0
    same(first, second)
    assert fit(drawn, second, "--resume") == 1  # the recipe has three epochs once more
    assert log_of(second)[:18] == log_of(whole)[:18]


def test_a_tracker_that_cannot_start_does_not_block_the_next_try(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    wandb.teardown()
    assert fit(drawn, tmp_path / "run", "--track", "wandb") == 1
    assert "wandb login" in capsys.readouterr().err
    wandb.teardown()
    assert fit(drawn, tmp_path / "run") == 0
    assert "had a run without a checkpoint: it starts anew" in capsys.readouterr().out


def test_a_folder_with_anything_of_its_own_is_never_a_new_runs(
    drawn: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("notes.txt", "recipe.yaml", "log.jsonl", "wandb-id"):
        out = tmp_path / name.partition(".")[0]
        out.mkdir()
        (out / name).write_text("mine")
        assert fit(drawn, out) == 1
        assert "is not empty" in capsys.readouterr().err and (out / name).read_text() == "mine"
    shutil.copytree(whole, tmp_path / "trained")
    (tmp_path / "trained" / "ema.safetensors").unlink()
    assert fit(drawn, tmp_path / "trained") == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.json", b"\xff"),
        ("classes.json", b"["),
        ("classes.json", b"[" * 100_000),
        ("classes.json", b'{"a": 1}'),
        ("classes.json", b'["benign", "benign", "malignant"]'),
        ("contents.csv", b"path,bytes,sha256\na,b,c\n"),
        ("recipe.yaml", b"\xff"),
        ("recipe.yaml", b"name: ["),
        ("samples.csv", b"\xff"),
        ("samples.csv", b""),
        ("log.jsonl", b'{"kind": "skipped", "picture"\n'),
        ("log.jsonl", b""),
    ],
)
def test_a_file_of_a_run_that_was_damaged_is_told(
    name: str, content: bytes, drawn: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / name).write_bytes(content)
    assert fit(drawn, out, "--resume") == 1
    assert name in capsys.readouterr().err


def test_weights_that_were_damaged_are_told(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "ema.safetensors").write_bytes(b"\xff" * 100)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "bundle"), "--positive", "malignant"]) == 1
    assert "ema.safetensors is damaged" in capsys.readouterr().err
