"""Pictures without labels, from which a stage of a recipe may learn by distillation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.data.csv_text import read_rows
from training.data.files import is_file, no_picture, refuse_repeated, scan
from training.data.folders import find_table
from training.data.sample import DataError, Sample
from training.data.table import ALIASES, PathFinder, path_of
from training.runs.contents import content_marks

UNLABELLED = "unlabelled"  # the split of these pictures in the table of a run


def read_unlabelled(path: Path, samples: Sequence[Sample]) -> tuple[list[Sample], str]:
    """Read the pictures of a table with a column `path`, or all pictures in and below a folder.

    A folder with a `labels.csv` is that table. Pictures with the content of one of `samples` are left out, since those
    of train are drawn beside them, and others are kept for figures; masks are left out too. Returns the pictures and a
    sentence on them. Raises DataError if there are none.
    """
    table = path if path.is_file() else find_table(path) if path.is_dir() else None
    if table is not None and no_picture(table) is None:
        raise DataError(f"distil.unlabelled: {path} is a picture: give a folder of pictures, or a table of their paths")
    if table is not None:
        finder = PathFinder(table.parent)
        aliases = {name: meant for name, meant in ALIASES.items() if meant == "path"}
        pictures = [finder.find(path_of(row)) for row in read_rows(table, ("path",), ("path",), aliases)]
        if missing := [picture for picture in pictures if not is_file(picture)]:
            raise DataError(f"{len(missing)} files of {table} are missing, the first is {missing[0]}: put them back")
    elif path.is_dir():
        pictures = scan(path).all_pictures()
    else:
        raise DataError(f"distil.unlabelled: there is no folder or table {path}")
    if not pictures:
        raise DataError(
            f"distil.unlabelled: {path} has no pictures: give another folder or table, or leave the key out"
        )
    refuse_repeated(pictures)
    files = [file for sample in samples for file in (sample.path, sample.mask) if file is not None]
    own = {mark for mark in content_marks(files).values() if mark is not None}
    marks = content_marks(pictures)
    chosen = [Sample(picture, "", None, UNLABELLED, None) for picture in pictures if marks[picture] not in own]
    if not chosen:
        raise DataError(f"distil.unlabelled: {path} has no pictures that are not in the data itself")
    sentence = f"{len(chosen)} pictures without labels from {path}"
    if left_out := len(pictures) - len(chosen):
        sentence += f"; {left_out} others are in the data itself, and are left out"
    return chosen, sentence
