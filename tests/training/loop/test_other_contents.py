"""A run goes on with the pictures that it had: other ones under their names are refused, and so are broken weights."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.training.loop.test_going_on import broken, fit, train_order
from tests.training.loop.test_resume import same
from training.cli import main
from training.data.draw import draw_dataset
from training.data.samples import load_samples
from training.runs.checkpoint import newest_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contents") / "data"
    draw_dataset(folder, 32, seed=5)
    table = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(table.replace("drawn-0000,train", "drawn-0000,calibration"))
    return folder


@pytest.fixture(scope="module")
def whole(drawn: Path) -> Path:
    """A run to which nothing happened."""
    assert fit(drawn, drawn.parent / "whole") == 0
    return drawn.parent / "whole"


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def turned(picture: Path) -> None:
    with Image.open(picture) as image:
        image.rotate(180).save(picture, compress_level=1)


def padded(picture: Path) -> None:
    """The same pixels, and bytes behind them that no decoder reads."""
    picture.write_bytes(picture.read_bytes() + b"\0")


@pytest.mark.parametrize("change", [turned, padded])
@pytest.mark.parametrize("split", ["train", "val", "calibration"])
def test_a_picture_that_is_another_is_refused_by_its_name_until_it_is_put_back(
    change: Callable[[Path], None],
    split: str,
    drawn: Path,
    whole: Path,
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = next(sample.path for sample in load_samples(run / "samples.csv") if sample.split == split)
    content = picture.read_bytes()
    change(picture)
    try:
        for options in ([], ["--skip-unreadable", "9"], ["-s", "stages.1.epochs=3"]):
            assert fit(drawn, run, "--resume", *options) == 1
            said = capsys.readouterr().err
            assert f"1 of the run's pictures have another content than when it started: {picture}: put" in said
        assert main(["export", str(run), str(run.parent / "bundle"), "--positive", "malignant"]) == 1
        assert "have another content" in capsys.readouterr().err
        same(whole, run)  # nothing has been done to it
    finally:
        picture.write_bytes(content)
    assert fit(drawn, run, "--resume") == 0
    same(whole, run)


def test_many_pictures_are_counted_and_the_first_are_named(
    drawn: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = sorted(drawn.glob("train/*/*.png"))
    contents = {picture: picture.read_bytes() for picture in pictures}
    try:
        for picture in pictures:
            padded(picture)
        assert fit(drawn, run, "--resume") == 1
    finally:
        for picture, content in contents.items():
            picture.write_bytes(content)
    said = capsys.readouterr().err
    assert f"{len(pictures)} of the run's pictures" in said and said.count(".png") == 3 and " and others: put" in said


def test_a_run_of_before_goes_on_and_has_a_record_from_then_on(
    drawn: Path, whole: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "contents.csv").unlink()
    assert fit(drawn, run, "--resume") == 0
    assert "has no record of its pictures' contents yet" in capsys.readouterr().out
    assert (run / "contents.csv").read_bytes() == (whole / "contents.csv").read_bytes()
    assert fit(drawn, run, "--resume") == 0
    assert "no record" not in capsys.readouterr().out


def test_a_run_whose_groups_were_spelt_otherwise_goes_on(
    drawn: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As before groups were read in all their spellings as one."""
    table = run / "samples.csv"
    text = table.read_text()
    table.write_text(text.replace("drawn-0003", "Drawn-0003", 1))
    assert fit(drawn, run, "--resume") == 0
    table.write_text(text.replace("drawn-0003", "drawn-0004", 1))
    assert fit(drawn, run, "--resume") == 1
    assert "has the group drawn-0003 and not drawn-0004" in capsys.readouterr().err


def test_a_picture_that_broke_later_is_no_other_picture_and_what_comes_in_its_place_is(
    drawn: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    picture = train_order(whole)[18]
    content = picture.read_bytes()
    try:
        with broken(picture):
            assert fit(drawn, run, "--resume", "-s", "stages.1.epochs=3") == 1
            assert f"{picture} cannot be read" in capsys.readouterr().err
        turned(picture)
        assert fit(drawn, run, "--resume", "-s", "stages.1.epochs=3") == 1
        assert "have another content" in capsys.readouterr().err
    finally:
        picture.write_bytes(content)
    assert fit(drawn, run, "--resume", "-s", "stages.1.epochs=3") == 0


def test_a_picture_that_was_never_read_may_be_put_right_once(
    drawn: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, picture = tmp_path / "run", train_order(whole)[18]
    content = picture.read_bytes()
    try:
        with broken(picture):
            assert fit(drawn, run, "--skip-unreadable", "1") == 0
        assert fit(drawn, run, "--resume", "--skip-unreadable", "1") == 0
        turned(picture)
        assert fit(drawn, run, "--resume", "--skip-unreadable", "1") == 1
        assert f"have another content than when it started: {picture}" in capsys.readouterr().err
    finally:
        picture.write_bytes(content)


@pytest.mark.parametrize("part", ["model", "ema"])
def test_a_checkpoint_with_weights_that_are_not_finite_is_refused_by_its_tensor(
    part: str, drawn: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, _ = newest_checkpoint(run / "checkpoints")
    assert state is not None
    name = next(name for name, tensor in state[part].items() if tensor.is_floating_point())
    state[part][name] = torch.full_like(state[part][name], math.nan)
    save_checkpoint(run / "checkpoints", state["progress"]["update"] + 1, state, 1)
    assert fit(drawn, run, "--resume") == 1
    assert f"has values that are not finite in {name} ({part})" in capsys.readouterr().err
