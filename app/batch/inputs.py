"""From the inputs of a job to its pictures: folders, patterns, tables, tar files and single files, one by one."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from app.batch.entries import Entry, shown
from app.batch.refusals import JobRefused
from app.batch.tables import listed
from app.batch.tars import members
from app.pictures.formats import SUFFIXES

TABLES = frozenset({".csv", ".parquet"})
_PATTERN = frozenset("*?[")
_COMPRESSED = re.compile(r"\.((tar|csv|parquet)\.(gz|bz2|xz|zst|lz4)|tgz|tbz2?|txz|tzst|zip)\Z", re.IGNORECASE)


def entries_of(inputs: Sequence[str], column: str) -> Iterator[Entry]:
    """All pictures of the inputs, input by input, in an order that depends on nothing but names and contents.

    Raises JobRefused for an input that does not exist, cannot be read, is compressed, or has no picture, and what
    `listed` and `members` raise. A picture that several inputs name comes as often as they name it.
    """
    for each in inputs:
        is_empty = True
        try:
            for entry in _entries(each, column):
                is_empty = False
                yield entry
        except OSError as error:
            raise JobRefused(f"{shown(str(error.filename or each))} cannot be read: {error.strerror}.") from error
        if is_empty:
            raise JobRefused(f"{shown(each)} has no picture: give an input with one, or leave it out.")


def is_table(path: str) -> bool:
    """Whether an input is a table, by its name."""
    return Path(path).suffix.lower() in TABLES


def _entries(given: str, column: str) -> Iterator[Entry]:
    if not os.path.lexists(given) and _PATTERN & {*given}:
        # sorted, because the order of a folder differs between systems
        for path in sorted(glob.iglob(given, recursive=True)):  # noqa: PTH207 - the pattern may be absolute
            if not Path(path).is_dir():
                yield from _of_file(path, column)
    elif Path(given).is_dir():
        yield from _of_folder(given)
    else:
        Path(given).stat()  # raises if there is none
        yield from _of_file(given, column)


def _of_file(path: str, column: str) -> Iterator[Entry]:
    if is_table(path):
        yield from listed(path, column)
    elif Path(path).suffix.lower() == ".tar":
        yield from members(path, SUFFIXES)
    elif _COMPRESSED.search(path):
        raise JobRefused(f"{shown(path)} is compressed: unpack it, and give what was in it.")
    else:
        yield Entry(path)


def _of_folder(folder: str) -> Iterator[Entry]:
    """The files with a picture's suffix in a folder and below it, sorted by name. Links to folders are not followed."""
    open_folders = [_sorted(folder)]
    while open_folders:
        if (path := next(open_folders[-1], None)) is None:
            open_folders.pop()
        elif path.endswith(os.sep):
            open_folders.append(_sorted(path))
        else:
            yield Entry(path)


def _sorted(folder: str) -> Iterator[str]:
    """The pictures and the folders in a folder by their names; a folder's path ends with a separator.

    Only names are kept, because a single folder may have millions.
    """
    names = []
    with os.scandir(folder) as items:
        for item in items:
            if item.name.startswith("."):
                continue
            if item.is_dir(follow_symlinks=False):
                names.append(item.name + os.sep)
            elif Path(item.name).suffix.lower() in SUFFIXES and not (item.is_symlink() and Path(item.path).is_dir()):
                names.append(item.name)
    names.sort(key=lambda name: name.removesuffix(os.sep))
    return (str(Path(folder) / name) + os.sep * name.endswith(os.sep) for name in names)
