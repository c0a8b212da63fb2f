"""Labelled pictures on disk, and their split into training and validation data.

A data set is a CSV file beside its pictures, or a folder for each class. Data that does not fit is refused with a
sentence that says what to do, so that no run starts on data that it would misread.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from training.errors import TrainingProblem

SPLITS = ("train", "val", "test")
_COLUMNS = ("path", "label", "group", "split", "mask")
_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"}


class DataError(TrainingProblem, ValueError):
    """Data that cannot be used. The message says why and what to do."""


@dataclass(frozen=True)
class Sample:
    """One labelled picture.

    Pictures of the same thing, such as one patient or one lesion, share a `group` and belong in the same split. `mask`
    is a picture that is white where the labelled thing is. `group`, `split` and `mask` are None if unknown.
    """

    path: Path
    label: str
    group: str | None
    split: str | None
    mask: Path | None


def read_samples(root: Path, split: str | None = None) -> list[Sample]:
    """Read the labelled pictures of `root`, or only those of one split.

    `root` is a CSV file, a folder with `labels.csv`, or a folder of classes. The CSV's columns are
    `path,label[,group,split,mask]`; other columns are ignored, and paths are relative to the file's folder. A folder
    of classes has one subfolder for each class, or the subfolders `train`, `val` and `test` with the classes in them.
    There, hidden files and files without a picture's suffix are skipped.

    Returns samples in the order of the table, or sorted by path. Raises DataError for any other layout, for missing
    files, for pictures listed twice, and for classes without training pictures.
    """
    table = root if root.is_file() else root / "labels.csv"
    samples = _from_table(table) if table.is_file() else _from_folders(root)
    _validate(samples, root)
    chosen = [sample for sample in samples if split in (None, sample.split)]
    if not chosen:
        raise DataError(f"{root} has no pictures in {split}: add the split to the table, or make a folder for it")
    return chosen


def split_samples(samples: Sequence[Sample], val_share: float, seed: int) -> list[Sample]:
    """Assign each sample to train or val, and return the samples in their order.

    A split that the data already has is kept, `test` included. Otherwise whole groups are drawn for val, stratified by
    the labels that they hold. Then single groups are moved while that brings the classes' shares in val nearer to
    `val_share`. A sample without a group is a group of its own.

    Each class has at least one group in train and one in val. Its share in val is `val_share` to within half a picture
    if there are no groups, and to within half of the smallest group that can still be moved if each group has one
    label. The result depends on `seed`, and not on the order of the samples.

    Raises DataError if a group is in several splits, or if a class has no pictures in train or in val.
    """
    if any(sample.split for sample in samples):
        _refuse_leaks(samples)
        assigned = list(samples)
    else:
        val = _val_keys(samples, val_share, seed)
        assigned = [replace(sample, split="val" if _group_key(sample) in val else "train") for sample in samples]
    label_splits = {(sample.label, sample.split) for sample in assigned}
    for label in sorted({sample.label for sample in assigned}):
        for split in ("train", "val"):
            if (label, split) not in label_splits:
                raise DataError(
                    f"class {label} has no picture in {split}: each class needs pictures of at least two groups, some "
                    "in train and some in val (a picture without a group is a group of its own)"
                )
    return assigned


def groups_in_several_splits(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Return the groups with pictures in more than one split, and all pictures of these groups."""
    members: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.group is not None:
            members[sample.group].append(sample)
    return {group: pictures for group, pictures in members.items() if len({sample.split for sample in pictures}) > 1}


def classes_of(samples: Iterable[Sample]) -> tuple[str, ...]:
    """Return the sorted labels of the training samples. This is the order of a model's logits."""
    return tuple(sorted({sample.label for sample in samples if sample.split == "train"}))


def write_samples(samples: Iterable[Sample], path: Path) -> None:
    """Write samples as a CSV file with absolute paths, for `load_samples`."""
    with path.open("w", newline="", encoding="utf-8") as lines:
        rows = csv.writer(lines)
        rows.writerow(_COLUMNS)
        for sample in samples:
            mask = sample.mask.absolute() if sample.mask else ""
            rows.writerow([sample.path.absolute(), sample.label, sample.group or "", sample.split or "", mask])


def load_samples(path: Path) -> list[Sample]:
    """Read the samples that `write_samples` wrote. Raises DataError if the table or one of its files is missing."""
    samples = listed_samples(path)
    refuse_missing(samples, path)
    return samples


def listed_samples(path: Path) -> list[Sample]:
    """Read the samples that `write_samples` wrote, without a look at their files. Raises DataError without a table."""
    if not path.is_file():
        raise DataError(f"there is no {path}: give the folder that a training run wrote")
    return [_sample(row, Path) for row in _rows(path)]


def _from_table(table: Path) -> list[Sample]:
    def resolve(text: str) -> Path:
        path = Path(text)
        if path.anchor or ".." in path.parts:
            raise DataError(f"{table}: {text} leads out of the data: give paths below the table's folder")
        return table.parent / path

    return [_sample({name: text.strip() for name, text in row.items()}, resolve) for row in _rows(table)]


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, restval="", strict=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} is not a CSV in UTF-8: {error}") from error
    if missing := [name for name in ("path", "label") if name not in columns]:
        raise DataError(
            f"{table} has no column {' and no column '.join(missing)}: "
            f"it needs path,label[,group,split,mask] and has {','.join(columns)}"
        )
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise DataError(f"{table}: row {number} has more values than the header: quote values that contain commas")
    return rows


def _sample(row: dict[str, str], resolve: Callable[[str], Path]) -> Sample:
    mask = row.get("mask")
    return Sample(
        path=resolve(row["path"]),
        label=row["label"],
        group=row.get("group") or None,
        split=row.get("split") or None,
        mask=resolve(mask) if mask else None,
    )


def _from_folders(root: Path) -> list[Sample]:
    if not root.is_dir():
        raise DataError(f"there is no folder or CSV file {root}: give the folder with the pictures")
    names = [folder.name for folder in _folders(root)]
    splits = [name for name in names if name in SPLITS]
    if splits and (others := [name for name in names if name not in SPLITS]):
        raise DataError(
            f"{root} has {', '.join(splits)} beside {', '.join(others)}: its folders must be either all classes "
            f"or all splits ({', '.join(SPLITS)})"
        )
    split_folders: list[tuple[str | None, Path]] = [(split, root / split) for split in splits]
    return [
        Sample(picture, folder.name, None, split, None)
        for split, parent in split_folders or [(None, root)]
        for folder in _folders(parent)
        for picture in _pictures(folder)
    ]


def _folders(parent: Path) -> list[Path]:
    folders = sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise DataError(f"{parent} has neither a labels.csv nor folders of classes: add one or the other")
    return folders


def _pictures(folder: Path) -> list[Path]:
    pictures = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not pictures:
        raise DataError(f"the class folder {folder} has no pictures: add some, or remove the folder")
    return pictures


def _validate(samples: Sequence[Sample], root: Path) -> None:
    seen: set[Path] = set()
    for sample in samples:
        if not sample.label:
            raise DataError(f"{sample.path} has no label: give it one, or remove its row")
        if sample.split not in (None, *SPLITS):
            raise DataError(f"{sample.path} has the unknown split {sample.split}: choose one of {', '.join(SPLITS)}")
        if sample.path in seen:
            raise DataError(f"{sample.path} is listed twice: remove one of its rows")
        seen.add(sample.path)
    refuse_missing(samples, root)
    unsplit = [sample for sample in samples if sample.split is None]
    if 0 < len(unsplit) < len(samples):
        raise DataError(
            f"{len(unsplit)} of {len(samples)} pictures have no split, the first is {unsplit[0].path}: "
            "give a split to all or to none"
        )
    labels = {sample.label for sample in samples}
    if len(labels) < 2:
        raise DataError(f"{root} has pictures of {len(labels)} class(es): a classifier needs two or more")
    if absent := sorted(labels - {sample.label for sample in samples if sample.split in (None, "train")}):
        raise DataError(f"class {', '.join(absent)} has no picture in train: add some, or remove the class")


def refuse_missing(samples: Iterable[Sample], source: Path) -> None:
    """Raises DataError if a picture or a mask is missing. `source` says where it is listed."""
    files = [file for sample in samples for file in (sample.path, sample.mask) if file is not None]
    if missing := [file for file in files if not file.is_file()]:
        raise DataError(
            f"{len(missing)} of {len(files)} files of {source} are missing, the first is {missing[0]}: "
            "put them back, or remove their rows"
        )


def _refuse_leaks(samples: Iterable[Sample]) -> None:
    if leaks := groups_in_several_splits(samples):
        group, members = next(iter(leaks.items()))
        splits = " and ".join(sorted({str(member.split) for member in members}))
        raise DataError(
            f"group {group} has pictures in {splits}; in all, {len(leaks)} group(s) are in more than one split: "
            "put all pictures of a group into one"
        )


def _group_key(sample: Sample) -> str | Path:
    return sample.path if sample.group is None else sample.group


def _val_keys(samples: Sequence[Sample], val_share: float, seed: int) -> set[str | Path]:
    in_order = sorted(samples, key=lambda sample: sample.path)
    keys = list(dict.fromkeys(_group_key(sample) for sample in in_order))
    labels = sorted({sample.label for sample in samples})
    row, column = ({name: i for i, name in enumerate(names)} for names in (keys, labels))
    counts = np.zeros((len(keys), len(labels)), np.int64)
    for sample in samples:
        counts[row[_group_key(sample)], column[sample.label]] += 1
    return {key for key, chosen in zip(keys, _draw_groups(counts, val_share, seed), strict=True) if chosen}


def _draw_groups(counts: Int[np.ndarray, "groups labels"], share: float, seed: int) -> Bool[np.ndarray, " groups"]:
    """Choose the groups of val. `counts` is the number of pictures of each label in each group."""
    rng = np.random.default_rng(seed)
    kinds, kind_of_group, sizes = np.unique(counts, axis=0, return_inverse=True, return_counts=True)
    # A kind is a set of groups with equal counts. The share is taken of each kind, so that large groups are in both
    # splits. Rounding up or down is random, with the fraction as its probability.
    chosen = np.floor(share * sizes + rng.random(len(sizes))).astype(np.int64)
    totals = counts.sum(axis=0)
    moves = np.concatenate([kinds, -kinds])
    while True:
        in_val = chosen @ kinds
        costs = np.where(np.concatenate([chosen < sizes, chosen > 0]), _cost(in_val + moves, totals, share), np.inf)
        best = int(costs.argmin())
        if not costs[best] < _cost(in_val[None], totals, share)[0]:
            break
        chosen[best % len(kinds)] += 1 if best < len(kinds) else -1
    drawn = np.zeros(len(counts), bool)
    for kind, number in enumerate(chosen):
        drawn[rng.permutation(np.flatnonzero(kind_of_group == kind))[:number]] = True
    return drawn


def _cost(
    in_val: Int[np.ndarray, "n labels"], totals: Int[np.ndarray, " labels"], share: float
) -> Float[np.ndarray, " n"]:
    """Return the distance of each candidate split from the share. A label missing from a split outweighs the rest."""
    empty = ((in_val == 0) | (in_val == totals)).sum(axis=1)
    distance = np.square(in_val / totals - share).sum(axis=1)
    return np.asarray(len(totals) * empty + distance, np.float64)
