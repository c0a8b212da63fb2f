"""A record of the contents of many pictures that is cheap to make: their sizes, and digests of parts of them.

A run is only then what it was if its pictures are what they were. Reading all of them again would take as long as an
epoch, so 64 KiB of each file are compared, from four places, with its size. A picture that is saved or compressed anew
differs in these. A change in the middle of a large file that keeps its size, such as an edited pixel of an uncompressed
picture, may not.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from app.errors import FusionLensError
from app.pictures.decode import decode
from app.progress import tracked
from training.data.limits import TRAINING_LIMITS
from training.data.sample import DataError
from training.output import write_atomically

_NAMED = 3
_PARTS, _PART_BYTES = 4, 16 * 1024
_COLUMNS = ("path", "bytes", "sha256")
_THREADS = 16  # which wait for disks and networks


def content_mark(path: Path) -> str | None:
    """The size of a file and the digest of its parts, such as `48213 1f0c…`. None if it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256()
            for start in _starts(size):
                file.seek(start)
                digest.update(file.read(_PART_BYTES))
    except OSError:
        return None
    return f"{size} {digest.hexdigest()[:32]}"


def content_marks(paths: Sequence[Path]) -> dict[Path, str | None]:
    """The marks of files."""
    with ThreadPoolExecutor(_THREADS) as pool:
        marks = tracked(pool.map(content_mark, paths), "comparing", "pictures", len(paths))
        return dict(zip(paths, marks, strict=True))


def write_marks(marks: Mapping[Path, str | None], table: Path) -> None:
    """Write marks as a CSV file, in which a file that could not be read has none. Raises OSError."""
    lines = io.StringIO(newline="")
    rows = csv.writer(lines)
    rows.writerow(_COLUMNS)
    rows.writerows([path, *(mark or " ").split(" ")] for path, mark in marks.items())
    write_atomically(table, lines.getvalue().encode())


def read_marks(table: Path) -> dict[Path, str | None]:
    """Read the marks that `write_marks` wrote. Raises DataError for another file."""
    try:
        with table.open(newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines, strict=True)
            rows = list(reader)
            if tuple(reader.fieldnames or ()) != _COLUMNS:
                raise ValueError(f"its columns are not {','.join(_COLUMNS)}")
        return {Path(row["path"]): f"{int(row['bytes'])} {row['sha256']}" if row["bytes"] else None for row in rows}
    except (ValueError, csv.Error, KeyError, TypeError) as error:
        raise DataError(f"{table} is damaged ({error}): restore it from a copy of the run") from error


def changed_files(marks: Mapping[Path, str | None], now: Mapping[Path, str | None]) -> list[Path]:
    """The files that can be read before and now, and have another content now."""
    return [path for path, mark in now.items() if mark and marks.get(path) and marks[path] != mark]


def refuse_changed(changed: Sequence[Path], table: Path) -> None:
    """Raises DataError if any of the changed files is a picture. One that is damaged is told where it is decoded."""
    pictures = islice((path for path in changed if is_picture(path)), _NAMED)
    if named := ", ".join(map(str, pictures)):
        more = " and others" if len(changed) > _NAMED else ""
        raise DataError(
            f"{len(changed)} of the run's pictures have another content than when it started: {named}{more}: put the "
            f"former files back, or start a new run (the run's own record is {table})"
        )


def is_picture(path: Path) -> bool:
    """Whether training can read a file."""
    try:
        decode(path.read_bytes(), TRAINING_LIMITS)
    except (OSError, FusionLensError):
        return False
    return True


def forget_marks(table: Path, paths: Iterable[Path]) -> None:
    """Take files out of the record whose content is as it says, because it could not be used.

    Another file may be put in their place. One that was damaged later has another content, and stays in the record.
    """
    marks = read_marks(table)
    unusable = [path for path in paths if marks.get(path) is not None and content_mark(path) == marks[path]]
    if unusable:
        write_marks(marks | dict.fromkeys(unusable), table)


def _starts(size: int) -> list[int]:
    """Where the parts of a file begin. They are the whole file if it is small."""
    if size <= _PARTS * _PART_BYTES:
        return list(range(0, size, _PART_BYTES))
    return [(size - _PART_BYTES) * part // (_PARTS - 1) for part in range(_PARTS)]
