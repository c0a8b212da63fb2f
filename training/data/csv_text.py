"""The text of a CSV file as a header and rows, whichever program wrote it.

Spreadsheets write several encodings, delimiters and line ends. Whatever the file itself settles is read: the encoding
by a byte order mark, the delimiter by the header. Anything else is refused.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training.data.sample import DataError
from training.spelling import column_key, normalised

if TYPE_CHECKING:
    from _csv import Reader

_MARKS = {  # UTF-32 first, since its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_DELIMITERS = (",", ";", "\t", "|")
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class Row:
    """One row of a table: its place in words, for errors, and its cells by the names of their columns.

    `cells` are those that were asked for, empty if the row lacks them. `others` are those of further columns that have
    a name of their own, without empty ones. Cells have no blanks around them. Columns are in small letters.
    """

    place: str
    cells: dict[str, str]
    others: dict[str, str]


def read_rows(table: Path, columns: Sequence[str], required: Sequence[str], aliases: dict[str, str]) -> Iterator[Row]:
    """Yield the rows of a CSV file, of which `columns` are checked.

    `aliases` are other names for columns; they are not read, but named in the error if a `required` column is missing.
    Raises DataError for a text that can be understood in two ways or in none, and names the row.
    """
    whole = _text(table)
    text, named_delimiter = _without_separator_line(whole)
    header, delimiter = _header(table, text, named_delimiter, columns, required, aliases)
    others = [name if name not in columns and name and header.count(name) == 1 else None for name in header]
    own = [name if name in columns else None for name in header]
    rows, number, skipped_lines = _reader(text, delimiter), 0, int(text != whole)
    try:
        for number, cells in enumerate(cells for cells in rows if cells):
            if number == 0:  # the header
                continue
            yield _row(table, f"line {rows.line_num + skipped_lines}: row {number}", own, others, cells)
    except csv.Error as error:
        raise DataError(
            f"{table} is not a CSV in UTF-8: row {number + 1} (line {rows.line_num + skipped_lines}): {error}: "
            "check the quotes there"
        ) from error


def _row(
    table: Path, place: str, columns: Sequence[str | None], others: Sequence[str | None], cells: Sequence[str]
) -> Row:
    place = f"{table}, {place}"
    if len(cells) > len(columns):
        raise DataError(
            f"{place} has more values than the header: quote values that contain commas or other delimiters"
        )
    if not any(cell.strip() for cell in cells):
        raise DataError(f"{place} is empty: remove it")
    named = _named(columns, cells)
    for name, cell in named.items():
        if re.search(r"[\r\n]", cell):
            raise DataError(f"{place}, column {name}: the value has a line break: a quote may not be closed there")
    further = {name: sys.intern(normalised(cell)) for name, cell in _named(others, cells).items()}
    return Row(place, named, {name: cell for name, cell in further.items() if cell})


def _named(names: Sequence[str | None], cells: Sequence[str]) -> dict[str, str]:
    """The cells by their names, without those that have none. Equal texts share their memory."""
    return {
        name: sys.intern(cell.strip())
        for name, cell in itertools.zip_longest(names, cells, fillvalue="")
        if name is not None
    }


def _text(table: Path) -> str:
    data = table.read_bytes()
    encoding = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), "utf-8")
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DataError(f"{table} is a spreadsheet's own file: save it as CSV in UTF-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{table} is not a CSV in UTF-8: line {line}: {error}: save it in UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{table} is not a CSV in UTF-8: line {line} has a zero: save it in UTF-8")
    return text


def _without_separator_line(text: str) -> tuple[str, str | None]:
    """Return the text without the first line `sep=;` that Excel writes, and the delimiter that it names."""
    if match := re.match(r'"?sep=([^\w\r\n "])"?[ \t]*(\r\n|\r|\n)', text, re.IGNORECASE):
        return text[match.end() :], match[1]
    return text, None


def _header(
    table: Path,
    text: str,
    delimiter: str | None,
    columns: Sequence[str],
    required: Sequence[str],
    aliases: dict[str, str],
) -> tuple[list[str], str]:
    """Find the delimiter with which the first row names the required columns.

    Returns the columns' names in small letters, and the delimiter.
    """
    headers = {mark: _first_row(text, mark) for mark in ([delimiter] if delimiter else _DELIMITERS)}
    fitting = {mark: names for mark, names in headers.items() if {*required} <= {*names}}
    if not fitting:
        names = max(headers.values(), key=len)
        missing = " and no column ".join(name for name in required if name not in names)
        hints = [f"if {name} is the {meant}, call it {meant}" for name in names if (meant := aliases.get(name))]
        optional = "".join(f",{name}" for name in columns if name not in required)
        needed = ",".join(required) + (f"[{optional}]" if optional else "")
        raise DataError(
            f"{table} has no column {missing}: it needs {needed} and has "
            f"{','.join(names)[:_SHOWN_CHARACTERS] or 'nothing'}: name the columns in the first row"
            + "".join(f"; {hint}" for hint in hints)
        )
    mark, names = next(iter(fitting.items()))
    if twice := [name for name, count in Counter(names).items() if count > 1 and name in columns]:
        raise DataError(f"{table} has two columns {twice[0]}: keep the one that is meant")
    return names, mark


def _first_row(text: str, delimiter: str) -> list[str]:
    """Return the first row in small letters, or nothing if its quotes do not fit the delimiter."""
    try:
        return [column_key(name) for name in next((row for row in _reader(text, delimiter) if row), [])]
    except csv.Error:
        return []


def _reader(text: str, delimiter: str) -> Reader:
    # A blank after a delimiter would hide the quote after it.
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
