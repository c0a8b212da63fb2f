"""The pictures of a job, before they are read: files, and members of tar files."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """Where in a tar file a picture lies, and what tells that the tar file is still the same.

    `name` is the name in the tar file. The picture is its `size_bytes` bytes from `offset_bytes` on. The tar file had
    `tar_bytes` bytes, and was last changed at `tar_time_ns`.
    """

    name: str
    offset_bytes: int
    size_bytes: int
    tar_bytes: int
    tar_time_ns: int


@dataclass(frozen=True)
class Entry:
    """One picture: the file at `path`, or a member of the tar file there.

    `path` is as the inputs name it, so a relative one starts at the folder in which the job began. It is empty where a
    row of a table names no file. Bytes that are not UTF-8 are surrogates in it, as in all paths in Python.
    """

    path: str
    member: Member | None = None


def shown(name: str) -> str:
    r"""A path or a name as text that can be written anywhere: bytes that are not UTF-8 become `\xff` and the like."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
