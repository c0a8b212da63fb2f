"""What commands write: where it may lie, and how it gets there whole."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import TrainingProblem

_TABLES = {".csv", ".tsv", ".txt"}


class OutputError(TrainingProblem, ValueError):
    """A place where no output may lie. The message says what to do."""


def refuse_within_data(out: Path, data: Path) -> None:
    """Raises OutputError if a file or folder to write lies in a data set's folder, of which it would become a part.

    `data` may be the folder of a run, whose pictures lie elsewhere. The output may then lie in that folder itself.
    """
    if not data.is_dir():  # a table, which lists what belongs to the data
        return
    resolved, folder = out.resolve(), data.resolve()
    of_run = data / "samples.csv"
    if of_run.is_file() and resolved.is_relative_to(folder):
        return
    for root in (folder, *_pictures_folders(of_run)):
        if resolved.is_relative_to(root):
            raise OutputError(
                f"{out} lies in the data, {root if of_run.is_file() else data}, of which its files would be a part: "
                "choose another folder"
            )


def refuse_to_overwrite(folder: Path) -> None:
    """Raises OutputError if there is something in a folder that is to be written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists and is not empty: choose another folder")


def make_folder(folder: Path) -> None:
    """Make a folder for output if there is none. Raises OutputError if no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{folder}: no file can be written there ({reason}): choose another folder") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file that is complete or as it was before. Raises OSError with its name.

    A pipe or a device, such as /dev/stdout, is written to.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
    else:
        write_atomically(path.resolve(), text.encode())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise what fails while a file is written with the file's name, which the error of a full disk lacks."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file that is complete or as it was before, even after a power failure. Raises OSError with its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path), temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with naming(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if not hasattr(os, "O_DIRECTORY"):  # Windows has no folders that could be opened
        return
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _pictures_folders(samples: Path) -> Iterator[Path]:
    """Yield the folders of which every file is a part of a run's data, if there are any and something tells.

    They are the one with all pictures that have labels, and those with others. Where there is a table too, it lists
    what belongs to the data.
    """
    try:
        with samples.open(newline="", encoding="utf-8") as lines:
            rows = [(Path(row["path"]).resolve().parent, row["label"] != "") for row in csv.DictReader(lines)]
        labelled = os.path.commonpath([parent for parent, has_label in rows if has_label])
        for folder in (Path(labelled), *sorted({parent for parent, has_label in rows if not has_label})):
            if not any(file.suffix.lower() in _TABLES for file in folder.iterdir()):
                yield folder
    except (OSError, ValueError, LookupError, TypeError, csv.Error):  # none, or one that reading it will name
        return
