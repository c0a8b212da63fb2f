"""Tables with a column of paths: CSV and Parquet. They are read row by row, whatever their size."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from app.batch.entries import Entry, shown
from app.batch.refusals import JobRefused

_ROWS = 10_000  # of a Parquet file that are in memory at once


def listed(path: str, column: str) -> Iterator[Entry]:
    """The pictures in a column of the table at `path`, row by row. Relative paths start at the folder of the table.

    Raises JobRefused for a table that cannot be read, and for one without the column. Raises OSError.
    """
    folder = Path(path).parent
    read = _csv_values if path.lower().endswith(".csv") else _parquet_values
    for value in read(path, column):
        yield Entry(str(folder / value))


def _csv_values(path: str, column: str) -> Iterator[str]:
    with Path(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file)
        try:
            header = next(rows, [])
            place = _place(path, column, header)
            for row in rows:
                if row:  # an empty line is no row
                    yield row[place] if place < len(row) else ""
        except csv.Error as error:
            raise JobRefused(f"{shown(path)}, line {rows.line_num}, is no CSV ({error}): write it again.") from error


def _parquet_values(path: str, column: str) -> Iterator[str]:
    try:
        with pq.ParquetFile(path) as file:
            field = file.schema_arrow.field(_place(path, column, file.schema_arrow.names))
            kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise JobRefused(f"The column {column} of {shown(path)} has values of type {kind}: name one of paths.")
            for batch in file.iter_batches(_ROWS, columns=[column]):
                yield from (value or "" for value in batch.column(0).to_pylist())
    except pa.ArrowException as error:
        raise JobRefused(f"{shown(path)} is no Parquet file, or damaged ({error}): write it again.") from error


def _place(path: str, column: str, names: Sequence[str]) -> int:
    if list(names).count(column) != 1:
        listed_names = ", ".join(map(shown, names)) or "none"
        raise JobRefused(
            f"{shown(path)} does not have one column {shown(column)}: name the column of paths with --column; it has "
            f"{listed_names}."
        )
    return list(names).index(column)
