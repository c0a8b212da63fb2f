"""What commands write is whole or not there, is named if it fails, and never becomes a part of the data."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.full_disk import files_of_at_most
from training.cli import main, make_parser
from training.data.samples import Sample, write_samples
from training.output import OutputError, refuse_within_data, write_atomically, write_text

OTHER_ARGUMENTS = {"recipe": "smoke"}


def commands_with_data() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every subcommand that reads data or a run, and writes something."""
    for action in make_parser("fusionlens-train")._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, parser in action.choices.items():
                read = {each.dest for each in parser._actions}
                if read & {"data", "train_run"} and parser.get_default("writes") in read:
                    yield name, parser


COMMANDS = dict(commands_with_data())


def arguments(parser: argparse.ArgumentParser, data: Path, out: Path) -> Iterator[str]:
    """The arguments with which a command would read this data, and write this."""
    for action in parser._actions:
        value = {"data": data, "train_run": data, parser.get_default("writes"): out, **OTHER_ARGUMENTS}.get(action.dest)
        if action.option_strings:
            yield from (action.option_strings[-1], str(value)) if value is not None else ()
        else:
            yield str(value or data.parent / "bundle")


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("place", ["out", "a/new/folder", "../data/out", "."])
def test_no_command_writes_into_its_data(
    name: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    (data / "cat").mkdir(parents=True)
    assert main([name, *arguments(COMMANDS[name], data, data / place)]) == 1
    assert "lies in the data" in capsys.readouterr().err
    assert [*data.rglob("*")] == [data / "cat"]


def test_the_default_folder_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "bundle", "."]) == 1
    assert "evaluation lies in the data" in capsys.readouterr().err


def test_a_runs_pictures_are_its_data_and_its_own_folder_is_not(tmp_path: Path) -> None:
    run, pictures = tmp_path / "run", tmp_path / "pictures"
    run.mkdir()
    samples = [Sample(pictures / name / "1.png", name, None, "train", None) for name in ("cat", "dog")]
    write_samples(samples, run / "samples.csv")
    refuse_within_data(run / "evaluation", run)
    refuse_within_data(tmp_path / "evaluation", run)
    pictures.mkdir()
    with pytest.raises(OutputError, match="pictures, of which"):
        refuse_within_data(pictures / "evaluation", run)
    (pictures / "Labels.CSV").touch()
    refuse_within_data(pictures / "evaluation", run)


def test_what_a_table_lists_is_all_of_the_data(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n")
    refuse_within_data(tmp_path / "evaluation", table)


@pytest.mark.parametrize(
    "write",
    [lambda path: write_text(path, "é" * 5000), lambda path: write_atomically(path, bytes(10_000))],
    ids=["text", "bytes"],
)
@pytest.mark.parametrize("before", [None, b"older"])
def test_what_cannot_be_written_is_named_and_leaves_what_was_there(
    write: Callable[[Path], None], before: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    if before is not None:
        file.write_bytes(before)
    with files_of_at_most(2000), pytest.raises(OSError, match=r"report\.html"):
        write(file)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before] * (before is not None)


def test_a_link_is_written_through_and_a_device_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "text"
    write_text(Path("/dev/null"), "text")
    assert not Path("/dev/null").is_file()
