"""Labelled pictures on disk.

A data set is a CSV file beside its pictures, or a folder for each class. Data that does not fit is refused with a
sentence that says what to do, so that no run starts on data that it would misread.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from training.data.files import Folder, is_file, named_like_pictures, refuse_repeated, refuse_unreadable, scan
from training.data.folders import find_table, read_folders, split_tables, unwrap
from training.data.groups import settle_groups
from training.data.names import name_findings, refuse_look_alikes, unusable_class
from training.data.sample import SPLITS, DataError, DataSet, Finding, Sample
from training.data.split import groups_in_several_splits, split_samples
from training.data.table import COLUMNS, read_table
from training.output import write_atomically

__all__ = [
    "SPLITS",
    "DataError",
    "DataSet",
    "Finding",
    "Sample",
    "classes_of",
    "groups_in_several_splits",
    "load_samples",
    "read_data_set",
    "read_samples",
    "read_training_set",
    "refuse_unreadable",
    "split_samples",
    "write_samples",
]


def read_samples(root: Path, split: str | None = None) -> list[Sample]:
    """Read the labelled pictures of `root` for training, or only those of one split: see `read_training_set`."""
    chosen = [sample for sample in read_training_set(root).samples if split in (None, sample.split)]
    if not chosen:
        raise DataError(f"{root} has no pictures in {split}: add the split to the table, or make a folder for it")
    return chosen


def read_training_set(root: Path) -> DataSet:
    """Read a data set that a model can be trained on.

    Raises DataError as `read_data_set` does, and for fewer than two classes, for classes without training pictures and
    for empty folders of classes.
    """
    data = read_data_set(root)
    left_out, labels_alike = (
        "".join(f"; {finding.sentence}" for finding in data.findings if finding.kind == kind)
        for kind in ("left out", "label")
    )
    if data.empty_classes:
        raise DataError(
            f"the class folder {data.empty_classes[0]} has no pictures: add some, or remove the folder{left_out}"
        )
    labels = {sample.label for sample in data.samples}
    for label in sorted(labels):
        if (reason := unusable_class(label)) is not None:
            raise DataError(f"the class {label!r} {reason}: rename it")
    refuse_look_alikes(data.samples)
    if len(labels) < 2:
        raise DataError(
            f"{root} has pictures of {len(labels)} class(es){''.join(f', {label}' for label in labels)}: "
            f"a classifier needs two or more{left_out}"
        )
    if absent := sorted(labels - {sample.label for sample in data.samples if sample.split in (None, "train")}):
        raise DataError(
            f"class {', '.join(absent)} has no picture in train: add some, or remove the class{labels_alike}"
        )
    return data


def read_data_set(root: Path) -> DataSet:
    """Read the labelled pictures of `root`, for training or for evaluation.

    `root` is a CSV file, a folder with `labels.csv`, a folder of splits with one each, or a folder of classes. The
    CSV's columns are `path,label[,group,split,mask]`; others are kept as they are. Paths are relative to the file's
    folder. A folder of classes has one subfolder for each class, or subfolders for the splits with the classes in them.
    There, every picture counts, whatever its suffix, and other files are counted and left out. The data may lie in a
    single folder within `root`.

    Returns samples in the order of the table, or sorted by path. Raises DataError for any other layout, for missing
    files, for pictures listed twice and for pictures of which only some have a split.
    """
    if root.is_file():
        return _checked(_of_table(root), root)
    if not root.is_dir():
        raise DataError(f"there is no folder or CSV file {root}: give the folder with the pictures")
    if (table := find_table(root)) is not None:
        return _checked(_of_table(table), root)
    folder = unwrap(scan(root))
    data = _of_folder(folder)
    if folder.path != root:
        data = replace(data, facts=(f"the data lies in {folder.path.relative_to(root)}", *data.facts))
    return _checked(data, root)


def classes_of(samples: Iterable[Sample]) -> tuple[str, ...]:
    """Return the sorted labels of the training samples. This is the order of a model's logits."""
    return tuple(sorted({sample.label for sample in samples if sample.split == "train"}))


def write_samples(samples: Sequence[Sample], path: Path, written: Callable[[Path], Path] = Path.absolute) -> None:
    """Write samples as a CSV file for `load_samples`, with their paths as `written` gives them."""
    others = sorted({name for sample in samples for name in sample.columns})
    lines = io.StringIO(newline="")
    rows = csv.writer(lines)
    rows.writerow([*COLUMNS, *others])
    for sample in samples:
        mask = written(sample.mask) if sample.mask else ""
        cells = (written(sample.path), sample.label, sample.group or "", sample.split or "", mask)
        rows.writerow([*cells, *(sample.columns.get(name, "") for name in others)])
    write_atomically(path, lines.getvalue().encode())


def load_samples(path: Path) -> list[Sample]:
    """Read the samples that `write_samples` wrote. Raises DataError if the table or one of its files is missing."""
    samples = listed_samples(path)
    refuse_missing(samples, path)
    return samples


def listed_samples(path: Path) -> list[Sample]:
    """Read the samples that `write_samples` wrote, without a look at their files. Raises DataError without a table."""
    if not path.is_file():
        raise DataError(f"there is no {path}: give the folder that a training run wrote")
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines, strict=True))
        return [
            Sample(
                path=Path(row["path"]),
                label=row["label"],
                group=row["group"] or None,
                split=row["split"] or None,
                mask=Path(row["mask"]) if row["mask"] else None,
                columns={name: sys.intern(cell) for name, cell in row.items() if name not in COLUMNS and cell},
            )
            for row in rows
        ]
    except (UnicodeDecodeError, csv.Error, KeyError, TypeError) as error:
        raise DataError(f"{path} is not as a training run wrote it ({error}): start a new run") from error


def _of_folder(folder: Folder) -> DataSet:
    if (table := find_table(folder.path)) is not None:
        return _of_table(table)
    tables = split_tables(folder)
    return _of_split_tables(tables) if tables else read_folders(folder)


def _of_split_tables(tables: Sequence[tuple[str, Path]]) -> DataSet:
    """Read one table for each split. Groups and classes are those of all tables together."""
    samples: list[Sample] = []
    facts, findings = list[str](), list[Finding]()
    for split, table in tables:
        data = _of_table(table)
        for sample in data.samples:
            if sample.split not in (None, split):
                raise DataError(
                    f"{table} says that {sample.path.name} is in {sample.split}, but the table is that of {split}: "
                    "leave the column split out, or join the tables in one"
                )
            samples.append(replace(sample, split=split))
        facts += [f"{table.parent.name}/{table.name} has the pictures of {split}", *data.facts]
        findings += [finding for finding in data.findings if finding.kind != "label"]
    settled, group_findings = settle_groups(samples)
    return DataSet(tuple(settled), tuple(facts), (*findings, *name_findings(settled), *group_findings))


def _of_table(table: Path) -> DataSet:
    data = read_table(table)
    refuse_missing(data.samples, table)
    listed = {file for sample in data.samples for file in (sample.path, sample.mask) if file is not None}
    others = sorted({*named_like_pictures(table.parent)} - listed)
    of_masks = {sample.mask.parent for sample in data.samples if sample.mask is not None}
    of_masks -= {sample.path.parent for sample in data.samples}
    findings = list(data.findings)
    if pictures := [path for path in others if path.parent not in of_masks]:
        findings.append(
            Finding(
                "left out",
                f"{len(pictures)} pictures beside {table.name} are not in it, such as "
                f"{pictures[0].relative_to(table.parent)}: add rows for them, if they belong to the data",
            )
        )
    if masks := tuple(path for path in others if path.parent in of_masks):
        findings.append(Finding("mask", f"{len(masks)} file(s) among the masks belong to no picture", masks))
    return replace(data, findings=tuple(findings))


def _checked(data: DataSet, root: Path) -> DataSet:
    for sample in data.samples:
        if not sample.label:
            raise DataError(f"{sample.path} has no label: give it one, or remove its row")
    refuse_repeated(sample.path for sample in data.samples)
    unsplit = [sample for sample in data.samples if sample.split is None]
    if 0 < len(unsplit) < len(data.samples):
        raise DataError(
            f"{len(unsplit)} of {len(data.samples)} pictures have no split, the first is {unsplit[0].path}: "
            "give a split to all or to none"
        )
    return data


def refuse_missing(samples: Sequence[Sample], source: Path) -> None:
    """Raises DataError if a picture or a mask is missing. `source` says where it is listed."""
    files = [file for sample in samples for file in (sample.path, sample.mask) if file is not None]
    if missing := [file for file in files if not is_file(file)]:
        masks = len({*missing} & {sample.mask for sample in samples})
        raise DataError(
            f"{len(missing)} of {len(files)} files of {source} are missing, the first is {missing[0]}: "
            "put them back, or remove their rows" + (f"; {masks} of them are masks" if masks else "")
        )
