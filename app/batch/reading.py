"""Reads the bytes of one picture of a job, and says in stable words why that is not possible."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from app.batch.entries import Entry, Member, shown
from app.batch.refusals import JobRefused, MissingFile, UnreadableFile
from app.errors import UploadTooLarge


def read(entry: Entry, folder: str, most_bytes: int) -> bytes:
    """The bytes of a picture. Relative paths start at `folder`.

    Raises MissingFile, UnreadableFile, and UploadTooLarge for more than `most_bytes`. Raises JobRefused if the tar file
    has been changed since the job began, because another picture may lie in its place.
    """
    if not entry.path:
        raise MissingFile("The row names no file: fill it in, or remove it from the table.")
    try:
        # Not blocking, because opening a named pipe would wait for somebody who writes to it.
        with open(Path(folder) / entry.path, "rb", opener=_open_at_once) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise UnreadableFile("This is no ordinary file: name a picture.")
            if entry.member is not None:
                return _read_member(file, facts, entry.path, entry.member, most_bytes)
            _check_size(facts.st_size, most_bytes)
            data = file.read(most_bytes + 1)  # it may grow meanwhile
            _check_size(len(data), most_bytes)
            return data
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFile("There is no file of this name.") from error
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise UnreadableFile(f"The file cannot be read: {reason}.") from error


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read_member(file: BinaryIO, facts: os.stat_result, path: str, member: Member, most_bytes: int) -> bytes:
    _check_size(member.size_bytes, most_bytes)
    file.seek(member.offset_bytes)
    data = file.read(member.size_bytes)
    is_same = (facts.st_size, facts.st_mtime_ns) == (member.tar_bytes, member.tar_time_ns)
    if not is_same or len(data) != member.size_bytes:
        raise JobRefused(
            f"{shown(path)} has been changed since the job began: put it back as it was, or give another folder to "
            "begin anew."
        )
    return data


def _check_size(size_bytes: int, most_bytes: int) -> None:
    if size_bytes > most_bytes:
        raise UploadTooLarge(f"The picture is larger than {most_bytes} bytes: send a smaller one.")
