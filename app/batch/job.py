"""The folder of a job: what pins it, the list of its pictures, and the lock of the process that works in it.

```
DIR/job.json         what the job is: its inputs, its bundle, its options
DIR/inputs.parquet   its pictures in their order; a row group for each part
DIR/rows/            the part files, which are its result
DIR/overlays/        the overlays, in a folder for each part
DIR/lock             held by the process that works on the job
```
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.batch.entries import Entry, Member, shown
from app.batch.refusals import JobRefused
from app.batch.replacing import is_unfinished, remove_unfinished, replacing
from app.batch.tables import damage_told

JOB, INPUTS, ROWS, OVERLAYS, LOCK = "job.json", "inputs.parquet", "rows", "overlays", "lock"
_BEGIN_ANEW = "give another folder to begin anew"  # where the list of pictures is damaged
_LIST = pa.schema(
    [
        ("path", pa.binary()),
        ("member", pa.binary()),
        ("offset_bytes", pa.int64()),
        ("size_bytes", pa.int64()),
        ("tar_bytes", pa.int64()),
        ("tar_time_ns", pa.int64()),
    ]
)


@dataclass(frozen=True)
class JobFacts:
    """What pins a job, as plain values of JSON: with other ones, its rows would be others.

    `folder` is where the job began: its relative paths start there. `inputs` are absolute. `pictures` are the limits
    and sizes by which pictures are decoded.
    """

    folder: str
    inputs: list[str]
    column: str | None
    bundle_sha256: str
    methods: list[str]
    overlays: bool
    coverage: float | None
    pictures: dict[str, Any]
    part_rows: int
    format: int = 1


class Job:
    """A job whose pictures are listed. Parts are numbered from 0. Raises JobRefused if the list is damaged."""

    def __init__(self, out: Path, facts: JobFacts) -> None:
        self.out, self.facts = out, facts
        self._list = _opened_list(out / INPUTS)
        self.pictures: int = self._list.metadata.num_rows
        self.parts: int = self._list.num_row_groups

    def __reduce__(self) -> tuple[type[Job], tuple[Path, JobFacts]]:
        """Another process opens the list of pictures for itself."""
        return Job, (self.out, self.facts)

    def rows_of(self, part: int) -> int:
        """How many pictures a part has."""
        return int(self._list.metadata.row_group(part).num_rows)

    def entries(self, part: int) -> list[Entry]:
        """The pictures of a part, in their order. Raises JobRefused if their list is damaged."""
        with damage_told(self.out / INPUTS, _BEGIN_ANEW):
            return [_entry(row) for row in self._list.read_row_group(part).to_pylist()]


@contextmanager
def opened_job(out: Path, entries: Iterator[Entry], facts: JobFacts) -> Iterator[Job]:
    """The job in the folder `out`, begun there if the folder is new or empty, for this process alone while it lasts.

    `facts` are those of the job that is asked for, and `entries` its pictures, which are looked at where it begins.
    Raises JobRefused if the folder cannot be used or belongs to another job, if another process works in it, and what
    `entries` raises.
    """
    with _locked(_folder_of_job(out) / LOCK):
        if (out / JOB).exists():
            facts = _checked(out, facts)
        else:
            _write_list(out / INPUTS, entries, facts.part_rows)
            with replacing(out / JOB) as file:
                file.write(json.dumps(asdict(facts), indent=1).encode())
        for name in (ROWS, OVERLAYS):
            (out / name).mkdir(exist_ok=True)
        for folder in (out, out / ROWS, *(out / OVERLAYS).iterdir()):
            remove_unfinished(folder)
        yield Job(out, facts)


def _folder_of_job(out: Path) -> Path:
    """The folder, which is there now. Raises JobRefused if it cannot be, or if it has something else than a job."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not (out / JOB).exists() and not all(map(_is_left, out.iterdir())):
            raise JobRefused(f"{out} is not empty, and holds no batch job: give a new folder.")
        (out / LOCK).touch()
    except OSError as error:
        raise JobRefused(f"{out} cannot be used: {error.strerror}. Give another folder.") from error
    return out


def _is_left(file: Path) -> bool:
    """Whether a process that was killed before its job began has left this file: no file of the user is such a one."""
    if file.name != INPUTS:
        return file.name == LOCK or is_unfinished(file.name)
    try:
        _opened_list(file).close()
    except JobRefused:
        return False
    return True


def _checked(out: Path, ours: JobFacts) -> JobFacts:
    """The facts of the job in a folder. Raises JobRefused unless it is the job that is asked for."""
    try:
        theirs = JobFacts(**json.loads((out / JOB).read_bytes()))
        if not isinstance(theirs.folder, str):  # all else is compared
            raise TypeError("its folder is no path")
    except (ValueError, TypeError, RecursionError) as error:
        raise JobRefused(f"{out / JOB} is not what a batch job writes ({error}): give another folder.") from error
    ours = replace(ours, folder=theirs.folder)  # the inputs are absolute: relative paths start where they did
    for name, value in json.loads(json.dumps(asdict(ours))).items():
        if (other := asdict(theirs)[name]) != value:
            raise JobRefused(
                f"{out} belongs to another job, whose {name} is {_short(other)} and not {_short(value)}: give another "
                "folder, or the same command."
            )
    return theirs


def _short(value: Any) -> str:
    text = shown(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 200 else f"{text[:200]}…"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, however that ends. Raises JobRefused if another process has it."""
    with path.open("ab") as file:
        if sys.platform != "win32":
            import fcntl  # imported here because Windows has none

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise JobRefused(
                    f"Another process works on the job in {path.parent}: wait for its end, or end it."
                ) from error
        yield


def _write_list(path: Path, entries: Iterator[Entry], part_rows: int) -> None:
    with replacing(path) as file, pq.ParquetWriter(file, _LIST) as writer:
        while part := list(islice(entries, part_rows)):
            writer.write_table(pa.Table.from_pylist([_listed(entry) for entry in part], _LIST))


def _opened_list(path: Path) -> pq.ParquetFile:
    """The list of a job's pictures. Raises JobRefused if the file is damaged, or another one."""
    with damage_told(path, _BEGIN_ANEW):
        opened = pq.ParquetFile(path)
        if opened.schema_arrow.equals(_LIST):
            return opened
    raise JobRefused(f"{path} is not the list of a job's pictures: {_BEGIN_ANEW}.")


def _listed(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"path": os.fsencode(entry.path)}
    if entry.member is not None:
        row |= asdict(entry.member) | {"member": os.fsencode(entry.member.name)}
    return row


def _entry(row: dict[str, Any]) -> Entry:
    path, name = os.fsdecode(row.pop("path")), row.pop("member")
    return Entry(path, None if name is None else Member(name=os.fsdecode(name), **row))
