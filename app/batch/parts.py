"""The part files of a job: each has the rows of a fixed range of its pictures, and is there whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from app.batch.job import OVERLAYS, ROWS, Job
from app.batch.refusals import JobRefused
from app.batch.replacing import replacing
from app.batch.rows import Row
from app.batch.tables import damage_told

_MAKE_AGAIN = "remove it, and its rows are made again"


class Parts:
    """Reads and writes the part files of a job. `facts` are kept in each of them, and are no part of the rows."""

    def __init__(self, job: Job, schema: pa.Schema, facts: dict[str, str]) -> None:
        self._job, self._schema = job, schema.with_metadata(facts)

    def failures(self, part: int) -> int | None:
        """How many rows of a part have no answer; None if the part is not written yet.

        Raises JobRefused if its file is not what was written.
        """
        path = self.path(part)
        if not path.exists():
            return None
        with damage_told(path, _MAKE_AGAIN), pq.ParquetFile(path) as file:
            if file.schema_arrow.equals(self._schema) and file.metadata.num_rows == self._job.rows_of(part):
                errors = file.read(columns=["error"]).column("error")
                return len(errors) - int(errors.null_count)
        raise JobRefused(f"{path} has other rows than this job: {_MAKE_AGAIN}.")

    def write(self, part: int, rows: Sequence[Row]) -> None:
        """Write all rows of a part. Raises OSError."""
        table = pa.Table.from_pylist(list(rows), self._schema)
        with replacing(self.path(part)) as file:
            pq.write_table(table, file, compression="zstd")

    def path(self, part: int) -> Path:
        """The file of a part. In the order of their names, the files have the rows in the order of the inputs."""
        return self._job.out / ROWS / f"{_name(part)}.parquet"


def write_overlay(job: Job, part: int, place: int, method: str, png: bytes) -> str:
    """Write the overlay of the picture at a place in its part. Returns its path, from the job's folder on."""
    path = job.out / OVERLAYS / _name(part) / f"{place:06d}-{method}.png"
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as file:
        file.write(png)
    return path.relative_to(job.out).as_posix()


def _name(part: int) -> str:
    return f"part-{part:07d}"
