"""Names as tables, folders and recipes write them: one spelling for what Unicode can write in several ways."""

from __future__ import annotations

import unicodedata

NO_VALUE = "no value"  # of a cell that is empty, in figures by the values of a column


def normalised(name: str) -> str:
    """Return a label, a group or another value in Unicode's form NFC, without blanks around it."""
    return unicodedata.normalize("NFC", name).strip()


def column_key(name: str) -> str:
    """Return the name of a table's column in small letters, by which the column is known."""
    return normalised(name).casefold()
