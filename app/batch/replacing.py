"""Files that are there whole or not at all, whenever the process or the machine stops."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = ".fusionlens-tmp"  # of no other program: files with this suffix are removed


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` at the end. If anything is raised, `path` is as before.

    Raises OSError, with the name of the file.
    """
    # Of this process alone: on a cluster, a node that was given up may still be writing the same file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), error.filename or str(path)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_unfinished(name: str) -> bool:
    """Whether a file of this name is one that a killed process was writing."""
    return name.startswith(".") and name.endswith(_TEMPORARY)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process has left of files that it was writing in a folder."""
    for file in folder.glob(f".*{_TEMPORARY}"):
        file.unlink()


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder survive a loss of power, where the system can promise that."""
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
