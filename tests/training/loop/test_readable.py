"""A run that has finished can be exported: its pictures can be read, or it has skipped those that cannot."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.training.loop.test_going_on import broken, records
from tests.training.loop.test_going_on import fit as fit_epochs
from tests.training.loop.test_resume import same
from training.cli import main
from training.data.draw import draw_dataset
from training.data.samples import Sample, load_samples
from training.loading.draws import draws_of
from training.recipe.load import load_recipe
from training.runs.run import read_run

SKIP = ("--skip-unreadable", "1")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures of train, 8 of val, and 4 of test."""
    folder = tmp_path_factory.mktemp("readable") / "data"
    draw_dataset(folder, 36, seed=5)
    table = (folder / "labels.csv").read_text().splitlines(True)
    train = [number for number, row in enumerate(table) if ",train," in row]
    for number in train[:3]:
        table[number] = table[number].replace(",train,", ",test,")
    (folder / "labels.csv").write_text("".join(table))
    return folder


@pytest.fixture(scope="module")
def whole(drawn: Path) -> Path:
    """A run to which nothing happened, with pictures of calibration."""
    assert fit(drawn, drawn.parent / "whole") == 0
    return drawn.parent / "whole"


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def fit(data: Path, out: Path, *options: str, calibration_share: float = 0.25) -> int:
    changes = ("stages=[{name: all, epochs: 1}]", f"calibration_share={calibration_share}")
    return fit_epochs(data, out, *(word for change in changes for word in ("-s", change)), *options)


def export(run: Path) -> int:
    return main(["export", str(run), str(run.with_name(f"{run.name}-bundle")), "--positive", "malignant"])


def samples_of(run: Path, split: str) -> list[Sample]:
    return [sample for sample in load_samples(run / "samples.csv") if sample.split == split]


def by_first_epoch(run: Path, shown: bool) -> list[Path]:
    """The pictures of train that the first epoch shows, or those that it does not show."""
    recipe, samples = load_recipe(str(run / "recipe.yaml")), samples_of(run, "train")
    classes = sorted({sample.label for sample in samples})
    draws = draws_of(recipe, samples, [classes.index(sample.label) for sample in samples], classes)
    updates = draws.epoch_pictures // recipe.batch_size
    places = {*draws.order(0)[: updates * recipe.batch_size].tolist()}
    return [sample.path for number, sample in enumerate(samples) if (number in places) == shown]


@contextmanager
def gone(picture: Path) -> Iterator[Path]:
    """A picture whose file is away for a while."""
    away = picture.with_suffix(".away")
    picture.rename(away)
    try:
        yield picture
    finally:
        away.rename(picture)


def test_a_damaged_picture_of_calibration_stops_the_run_before_its_end_or_is_skipped(
    drawn: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = samples_of(whole, "calibration")[0].path
    skipping, stopped = tmp_path / "skipping", tmp_path / "stopped"
    with broken(picture):
        assert fit(drawn, skipping, *SKIP) == 0
        assert f"skipped 1 of at most 1: {picture} cannot be read" in capsys.readouterr().out
        assert fit(drawn, stopped) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"fusionlens-train: {picture} cannot be read") and "--skip-unreadable 1" in said
        assert not (stopped / "ema.safetensors").exists()
        assert export(stopped) == 1 and "the run has not finished" in capsys.readouterr().err
        assert fit(drawn, stopped, "--resume", *SKIP) == 0
        same(skipping, stopped)
        assert fit(drawn, stopped, "--resume", *SKIP) == 0  # measures once more
        same(skipping, stopped)
        assert export(stopped) == 0
    (record,) = records(skipping, "skipped")
    assert (record["picture"], record["split"]) == (str(picture), "calibration")


@pytest.mark.parametrize(
    "changes",
    [
        ("epoch_pictures=8",),
        ("epoch_pictures=8", "balance={label: 0.5}"),
        ("batch_size=10",),  # the last pictures of the epoch fill no batch
    ],
)
def test_a_damaged_picture_that_no_epoch_has_shown_is_skipped(
    changes: tuple[str, ...], drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [word for change in changes for word in ("-s", change)]
    assert fit(drawn, tmp_path / "before", *options) == 0
    picture = by_first_epoch(tmp_path / "before", shown=False)[-1]
    with broken(picture):
        assert fit(drawn, tmp_path / "stopped", *options) == 1
        assert f"{picture} cannot be read" in capsys.readouterr().err
        assert fit(drawn, tmp_path / "run", *options, *SKIP) == 0
        assert [record["picture"] for record in records(tmp_path / "run", "skipped")] == [str(picture)]
        assert picture not in {sample.path for sample in read_run(tmp_path / "run").samples}  # what is exported
    weights = [(tmp_path / name / "ema.safetensors").read_bytes() for name in ("before", "run")]
    assert weights[0] == weights[1]  # no update depends on it


@pytest.mark.parametrize(
    ("harm", "split"),
    [
        (gone, "train"),
        pytest.param(gone, "val", marks=pytest.mark.slow),
        pytest.param(gone, "calibration", marks=pytest.mark.slow),
        pytest.param(broken, "train", marks=pytest.mark.slow),
        pytest.param(broken, "val", marks=pytest.mark.slow),
        pytest.param(broken, "calibration", marks=pytest.mark.slow),
    ],
)
def test_a_picture_that_was_lost_after_it_was_read_is_skipped_as_the_resumed_run_says(
    harm: Callable[[Path], AbstractContextManager[Path]],
    split: str,
    drawn: Path,
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = by_first_epoch(run, shown=True)[0] if split == "train" else samples_of(run, split)[0].path
    with harm(picture):
        assert export(run) == 1
        said = capsys.readouterr().err
        assert str(picture) in said and (harm is broken or "fit … --resume --skip-unreadable 1" in said)
        assert fit(drawn, run, "--resume") == 1
        assert str(picture) in capsys.readouterr().err
        assert fit(drawn, run, "--resume", *SKIP) == 0
        assert [record["picture"] for record in records(run, "skipped")] == [str(picture)]
        assert ("are missing and will be skipped" in capsys.readouterr().out) == (harm is gone)
        assert export(run) == 0


def test_not_more_are_missing_than_may_still_be_skipped(
    drawn: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = (sample.path for sample in samples_of(run, "calibration"))
    with gone(first), gone(second):
        assert fit(drawn, run, "--resume", *SKIP) == 1
        assert "2 of the run's pictures are missing" in capsys.readouterr().err
    with broken(first):
        assert fit(drawn, run, "--resume", *SKIP) == 0
        with gone(second):
            assert fit(drawn, run, "--resume", *SKIP) == 1
            assert "--skip-unreadable 2" in capsys.readouterr().err


def test_what_the_export_does_not_read_may_be_gone(drawn: Path, run: Path) -> None:
    mask = samples_of(run, "train")[0].mask
    assert mask is not None
    with gone(samples_of(run, "test")[0].path), gone(mask):
        assert export(run) == 0
