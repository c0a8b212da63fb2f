"""Files that nobody but their owner can read, at no moment."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def make_private(folder: Path) -> None:
    """Create a folder for its owner alone, or take the rights of all others to it away."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _take_others_rights(folder, 0o700)


def write_secret(file: Path, content: str) -> None:
    """Write a file. Whoever looks finds the whole content, or what was there before."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)  # of a run that was interrupted
    try:
        with open(unfinished, "x", encoding="utf-8", opener=open_private) as writer:
            writer.write(content)
            writer.flush()
            os.fsync(writer.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def replace_secret(file: Path, content: str) -> None:
    """Write a file in place of another, as `write_secret` does. Owner and rights stay those of the other one."""
    place = file.resolve()  # a link stays a link
    before = place.stat()
    unfinished = place.with_name(f".{place.name}.unfinished")
    write_secret(unfinished, content)
    try:
        if sys.platform != "win32" and (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(unfinished, before.st_uid, before.st_gid)
        unfinished.chmod(before.st_mode & 0o777)
        unfinished.replace(place)
    finally:
        unfinished.unlink(missing_ok=True)


def keep_secret(file: Path) -> bool:
    """Whether there is such a file with something in it; from now on it is for its owner alone."""
    if not file.is_file() or file.stat().st_size == 0:
        return False
    _take_others_rights(file, 0o600)
    return True


def open_private(path: str, flags: int) -> int:
    """An opener for `open`: a new file is created without any right for others."""
    return os.open(path, flags, 0o600)


def _take_others_rights(path: Path, mode: int) -> None:
    if path.stat().st_mode & 0o077:
        path.chmod(mode)
