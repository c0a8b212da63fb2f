"""A data set that is listed in a CSV file beside its pictures."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from training.data.columns import settle_columns
from training.data.csv_text import Row, read_rows
from training.data.files import is_file
from training.data.groups import settle_groups
from training.data.names import is_split_mark, name_findings, refuse_joined, renamed_splits, split_of
from training.data.sample import DataError, DataSet, Finding, Sample
from training.spelling import normalised

COLUMNS = ("path", "label", "group", "split", "mask")
# What others call the columns that are required. These names have several meanings, so they are only named in errors.
ALIASES = {
    **dict.fromkeys(
        ("filename", "file_name", "file", "filepath", "file_path", "image", "image_path", "img", "image_id", "name"),
        "path",
    ),
    **dict.fromkeys(("class", "target", "category", "diagnosis", "dx", "y", "labels", "class_name"), "label"),
}

# Names, without all but letters, that columns often have which are meant as another: which, and what that says.
_LIKELY = {
    "group": (
        {"groups", "groupid", "patient", "patientid", "patients", "subject", "subjectid", "case", "caseid", "person"}
        | {"personid", "lesion", "lesionid", "study", "studyid", "slide", "slideid", "animal", "animalid", "plant"},
        "which pictures belong together",
    ),
    "split": (
        {"splits", "set", "sets", "subset", "fold", "folds", "partition", "phase", "usage", "dataset"},
        "which pictures are for training and which for tests",
    ),
    "mask": ({"masks", "maskpath", "segmentation", "segmentations", "annotation"}, "where the masks are"),
}


def read_table(table: Path) -> DataSet:
    """Read the pictures that a CSV file lists, in its order.

    Paths are below the file's folder. Raises DataError for a table that can be understood in two ways or in none, and
    for a path that leads out of the folder.
    """
    finder = PathFinder(table.parent)
    samples, splits = [], set()
    for row in read_rows(table, COLUMNS, ("path", "label"), ALIASES):
        samples.append(_sample(row, finder))
        splits.add(row.cells.get("split", ""))
    refuse_joined(sample.label for sample in samples)
    facts = tuple(renamed_splits(splits - {""}))
    settled, group_findings = settle_groups(samples)
    settled, column_findings = settle_columns(settled)
    findings = (*_unread_findings(samples), *name_findings(samples), *group_findings, *column_findings)
    return DataSet(tuple(settled), facts, findings)


def _unread_findings(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Yield findings about columns that are not read, but have a name for what another column is read for."""
    unread: defaultdict[str, list[str]] = defaultdict(list)
    for sample in samples:
        for name, cell in sample.columns.items():
            unread[name].append(cell)
    for meant, (names, what) in _LIKELY.items():
        if any(getattr(sample, meant) is not None for sample in samples):
            continue
        for name, cells in unread.items():
            # A group of one picture each says nothing.
            if re.sub(r"[^a-z]", "", name) in names and len({*cells}) < max(len(cells), 2):
                yield Finding("note", f"the column {name} is not read: if it says {what}, call it {meant}")
    if all(sample.split is None for sample in samples):
        for name, cells in unread.items():
            if cells and is_split_mark(name):
                yield Finding(
                    "note",
                    f"the column {name} is not read: if it says {_LIKELY['split'][1]}, write a column split with "
                    "train, val or test in its place",
                )


def path_of(row: Row) -> str:
    """Return the path that a row names. Raises DataError if it is empty."""
    if not row.cells["path"]:
        raise DataError(f"{row.place} has no path: give it one, or remove it")
    return row.cells["path"]


def _sample(row: Row, finder: PathFinder) -> Sample:
    cells = row.cells
    written = path_of(row)
    if not cells["label"]:
        raise DataError(f"{row.place}: {written} has no label: give it one, or remove its row")
    try:
        split = split_of(cells["split"]) if cells.get("split") else None
        path, mask = finder.find(written), finder.find(cells["mask"]) if cells.get("mask") else None
    except DataError as error:
        raise DataError(f"{row.place}: {written}: {error}") from error
    group = normalised(cells.get("group", "")) or None
    return Sample(path, normalised(cells["label"]), group, split, mask, row.others)


class PathFinder:
    """Finds files below a folder by paths that another system may have written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._entries: dict[Path, dict[str, list[str]]] = {}

    def find(self, text: str) -> Path:
        """Return the path of a file below the root, whether it exists or not.

        A file may be written with backslashes, in another normal form of Unicode, or with its absolute path. Raises
        DataError for a path that leads out of the root, or that fits several files.
        """
        readings = [text, text.replace("\\", "/")] if "\\" in text else [text]
        paths = [self._below(reading) for reading in readings]
        return next((path for path in paths if is_file(path)), None) or self._normalised(paths[-1]) or paths[0]

    def _below(self, text: str) -> Path:
        path = Path(text)
        if path.is_absolute() and ".." not in path.parts:
            for root in (self.root.absolute(), self.root.resolve()):
                if path.is_relative_to(root):
                    return self.root / path.relative_to(root)
        if path.anchor or ".." in path.parts or re.match(r"[A-Za-z]:[\\/]|\\\\", text):
            raise DataError(f"{text} leads out of the data: give paths below the table's folder")
        return self.root / path

    def _normalised(self, path: Path) -> Path | None:
        """Return the file whose name has the same normal form, or None."""
        found = self.root
        for part in PurePath(path.relative_to(self.root)).parts:
            names = self._names(found).get(unicodedata.normalize("NFC", part), [])
            if len(names) > 1 and part not in names:
                raise DataError(f"{path} may be any of {len(names)} files that differ only in Unicode's normal form")
            if not names:
                return None
            found /= part if part in names else names[0]
        return found if is_file(found) else None

    def _names(self, folder: Path) -> dict[str, list[str]]:
        """Return the names in a folder by their normal form."""
        if folder not in self._entries:
            entries: dict[str, list[str]] = {}
            for name in sorted(path.name for path in folder.iterdir()) if folder.is_dir() else ():
                entries.setdefault(unicodedata.normalize("NFC", name), []).append(name)
            self._entries[folder] = entries
        return self._entries[folder]
