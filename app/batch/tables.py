"""Tables with a column of paths: CSV and Parquet. They are read row by row, whatever their size."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from app.batch.entries import Entry, shown
from app.batch.refusals import JobRefused

_ROWS = 10_000  # of a Parquet file that are in memory at once


def listed(path: str, column: str) -> Iterator[Entry]:
    """The pictures in a column of the table at `path`, row by row. Relative paths start at the folder of the table.

    A row that names no file has an entry without a path. Raises JobRefused for a table that cannot be read, and for one
    without the column. Raises OSError.
    """
    folder = Path(path).parent
    read = _csv_values if path.lower().endswith(".csv") else _parquet_values
    for value in read(path, column):
        yield Entry(str(folder / value) if value else "")


@contextmanager
def damage_told(path: str | Path, advice: str) -> Iterator[None]:
    """What pyarrow raises for a Parquet file that is damaged or none, as a JobRefused that says what to do."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())  # which may have several lines
        raise JobRefused(f"{shown(str(path))} is damaged, or no Parquet file ({reason}): {advice}.") from error


def _csv_values(path: str, column: str) -> Iterator[str]:
    with Path(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        # A blank after a comma would hide the quote after it; a quote that is not closed would take in all below it.
        rows = csv.reader(file, strict=True, skipinitialspace=True)
        try:
            header = next(rows, [])
            place = _place(path, column, header)
            for row in rows:
                if row:  # an empty line is no row
                    yield row[place] if place < len(row) else ""
        except csv.Error as error:
            raise JobRefused(f"{shown(path)}, line {rows.line_num}, is no CSV ({error}): write it again.") from error


def _parquet_values(path: str, column: str) -> Iterator[str]:
    with Path(path).open("rb") as opened, damage_told(path, "write it again"):
        file = pq.ParquetFile(opened)
        field = file.schema_arrow.field(_place(path, column, file.schema_arrow.names))
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise JobRefused(f"The column {column} of {shown(path)} has values of type {kind}: name one of paths.")
        for batch in file.iter_batches(_ROWS, columns=[column]):
            yield from (value or "" for value in batch.column(column).to_pylist())


def _place(path: str, column: str, names: Sequence[str]) -> int:
    if list(names).count(column) != 1:
        listed_names = ", ".join(map(shown, names)) or "none"
        raise JobRefused(
            f"{shown(path)} does not have one column {shown(column)}: name the column of paths with --column; it has "
            f"{listed_names}."
        )
    return list(names).index(column)
