"""A data set of folders: one folder for each class, perhaps within folders of splits.

A name never decides alone. Folders that could be something else than classes, such as folds, pictures beside masks, or
splits by an unknown name, are refused with a sentence.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from training.data.files import Folder, left_out_facts, left_out_findings
from training.data.names import (
    is_split_name,
    name_findings,
    plain_words,
    renamed_splits,
    split_of,
    split_words,
    without_copy_mark,
    without_split_words,
)
from training.data.sample import SPLITS, DataError, DataSet, Finding, Sample
from training.spelling import normalised

_TABLE = "labels.csv"
_IMAGES = {"images", "image", "imgs", "img", "pictures", "photos", "jpegimages", "data", "files", "jpg", "jpeg", "png",
           "raw", "original", "originals"}  # fmt: skip
_MASKS = {"masks", "mask", "annotations", "labels", "segmentations", "groundtruth", "gt"}
_SHOWN = 5


@dataclass(frozen=True)
class _Class:
    """The folder of one class, and the split that it is in."""

    folder: Folder
    split: str | None


def find_table(folder: Path) -> Path | None:
    """Return the `labels.csv` in a folder, in capitals or small letters. Raises DataError if there are several."""
    found = sorted(path for path in folder.iterdir() if path.name.casefold() == _TABLE and path.is_file())
    if len(found) > 1:
        raise DataError(f"{folder} has {' and '.join(path.name for path in found)}: keep the one that is meant")
    return found[0] if found else None


def split_tables(folder: Folder) -> list[tuple[str, Path]]:
    """Return the `labels.csv` of each split of a folder of splits, or nothing if no split has one.

    Raises DataError if only some have one, or if the folders are not all splits.
    """
    if not any(is_split_name(inner.name) and find_table(inner.path) for inner in folder.folders):
        return []
    tables = [(split, inner.path, find_table(inner.path)) for split, inner in _splits(folder)]
    if missing := [path.name for _, path, table in tables if table is None]:
        raise DataError(
            f"{folder.path} has a {_TABLE} in some splits, but none in {_listed(missing)}: give each split one, or "
            f"give {folder.path} itself one for all pictures, with the column split"
        )
    return [(split, table) for split, _, table in tables if table is not None]


def read_folders(folder: Folder) -> DataSet:
    """Read the pictures of a folder of classes, or of splits that hold classes, sorted by path.

    Raises DataError for folders that could be understood in two ways or in none.
    """
    names = [inner.name for inner in folder.folders]
    split_folders = _splits(folder)
    places: list[tuple[str | None, Folder]] = [*split_folders] or [(None, folder)]
    classes = [
        _Class(inner, split) for split, parent in places for inner in _classes(_unwrapped(parent) if split else parent)
    ]
    samples = tuple(
        Sample(picture, normalised(each.folder.name), None, each.split, None)
        for each in classes
        for picture in each.folder.all_pictures()
    )
    left_out = [file for inner in folder.walk() for file in inner.left_out]
    facts = [*(renamed_splits(names) if split_folders else ()), *_facts(folder, classes), *left_out_facts(left_out)]
    findings = [
        *left_out_findings(left_out, len(samples)),
        *_beside_findings(folder, samples),
        *_merged_findings(classes),
        *_copy_findings(classes),
        *_shared_findings(classes),
        *name_findings(samples),
    ]
    empty = tuple(each.folder.path for each in classes if not each.folder.has_pictures)
    return DataSet(samples, tuple(facts), tuple(findings), empty)


def unwrap(folder: Folder) -> Folder:
    """Return the folder that holds the data: where a folder has one folder of folders or tables, that one."""
    while len(folder.folders) == 1 and not folder.pictures and find_table(folder.path) is None:
        inner = folder.folders[0]
        if is_split_name(inner.name) or not (inner.folders or find_table(inner.path)):
            break
        folder = inner
    return folder


def _unwrapped(split: Folder) -> Folder:
    """Return the folder in a split that holds its classes: the split itself, or one of its name or for any pictures."""
    while len(split.folders) == 1 and not split.pictures:
        inner = split.folders[0]
        if not inner.folders or not (is_split_name(inner.name) or _plain(inner.name) in _IMAGES | {_plain(split.name)}):
            break
        split = inner
    return split


def _splits(folder: Folder) -> list[tuple[str, Folder]]:
    """Return the folders of splits, in the order of SPLITS, or nothing if there are none."""
    named = [inner for inner in folder.folders if is_split_name(inner.name)]
    if not named:
        return []
    if others := [inner.name for inner in folder.folders if inner not in named]:
        raise DataError(
            f"{folder.path} has {_listed(inner.name for inner in named)} beside {_listed(others)}: its folders must be "
            f"either all classes or all splits ({', '.join(SPLITS)})"
        )
    found: dict[str, Folder] = {}
    for inner in named:
        try:
            split = split_of(inner.name)
        except DataError as error:
            raise DataError(f"{inner.path}: {error}") from error
        if split in found:
            raise DataError(
                f"{folder.path} has {found[split].name} and {inner.name}, both for {split}: keep one of them"
            )
        found[split] = inner
    return [(split, found[split]) for split in SPLITS if split in found]


def _classes(parent: Folder) -> tuple[Folder, ...]:
    """Return the folders of classes in a folder. Raises DataError if they may be something else."""
    folders, path = parent.folders, parent.path
    if not folders:
        tables = [file.path.name for file in parent.left_out if file.path.suffix.lower() in (".csv", ".tsv")]
        hint = f"; to use a table with another name, give it itself: {path / tables[0]}" if tables else ""
        if len(of_splits := [name for name in tables if is_split_name(Path(name).stem)]) > 1:
            hint = f"; to use {_listed(of_splits)}, join them in one {_TABLE} with the column split"
        hint += f"; its {len(parent.pictures)} picture(s) have no class" if parent.pictures else ""
        raise DataError(f"{path} has neither a {_TABLE} nor folders of classes: add one or the other{hint}")
    _refuse_masks(parent)
    _refuse_splits(parent)
    names_within = {folder: names for folder in folders if (names := _names_within(folder))}
    for first, second in combinations(names_within, 2):
        shared = names_within[first] & names_within[second]
        if shared and 2 * len(shared) >= min(len(names_within[first]), len(names_within[second])):
            raise DataError(
                f"{first.path} and {second.name} hold folders of the same names ({_listed(shared)}), so they may be "
                f"splits, folds or classes: call splits {', '.join(SPLITS)}, or list the pictures in a {_TABLE}, with "
                "their labels and the column split or group"
            )
    return folders


def _refuse_splits(parent: Folder) -> None:
    meant = [split_words(folder.name) for folder in parent.folders]
    if all(meant) and (len(set().union(*meant)) > 1 or all(is_split_name(folder.name) for folder in parent.folders)):
        raise DataError(
            f"{parent.path} has {_listed(folder.name for folder in parent.folders)}, which may be splits or classes: "
            f"call splits {', '.join(SPLITS)}, and classes otherwise"
        )
    _refuse_class_splits(parent)
    for folder in parent.folders:
        for outer in folder.walk():
            inner = [within for within in outer.folders if within.has_pictures]
            splits = [within for within in inner if is_split_name(within.name)]
            if splits and (len(splits) == len(inner) or len(splits) > 1):
                raise DataError(
                    f"{splits[0].path} is a split within another folder: put classes into the splits, as in "
                    f"train/{folder.name}, or give {outer.path} itself if it is a data set of its own"
                )


def _refuse_class_splits(parent: Folder) -> None:
    """Raises DataError for folders such as `cat` and `cat_test`, which may be one class in two splits."""
    named: dict[str, str] = {}  # the folder of each name without its words for a split
    for folder in sorted(parent.folders, key=lambda each: without_split_words(each.name) is not None):
        of_class = without_split_words(folder.name)
        other = named.setdefault(of_class or plain_words(folder.name), folder.name)
        if of_class is not None and other != folder.name:
            raise DataError(
                f"{parent.path} has {_listed((other, folder.name))}, which may be one class in several splits, or two "
                f"classes: put the class into folders of splits ({', '.join(SPLITS)}), or give it another name"
            )


def _refuse_masks(parent: Folder) -> None:
    """Raises DataError if masks or annotations would be read as pictures of a class, or of a class of their own."""
    for folder in parent.walk():
        names = {_plain(inner.name): inner for inner in folder.folders}
        masks = [inner for name, inner in names.items() if name in _MASKS]
        images = [inner for name, inner in names.items() if name in _IMAGES]
        # A class may be called mask, beside another such as no_mask.
        is_class = folder is parent and not images and any("mask" in name for name in names.keys() - _MASKS)
        if masks and not is_class and (images or len(masks) == len(names) or any(mask.has_pictures for mask in masks)):
            raise DataError(
                f"{masks[0].path} is no class, but by its name it holds masks or annotations: list the pictures in a "
                f"{_TABLE} with the columns path,label,mask, or move it out of the data"
            )


def _names_within(folder: Folder) -> set[str]:
    """Return the names of all folders below that hold pictures, but for names such as `images` that say nothing."""
    names = {_plain(inner.name) for inner in folder.walk() if inner is not folder and inner.has_pictures}
    return names - _IMAGES


def _facts(folder: Folder, classes: Sequence[_Class]) -> Iterator[str]:
    if deep := [each for each in classes if any(inner.has_pictures for inner in each.folder.folders)]:
        first = deep[0].folder
        inner = next(inner.path.relative_to(first.path.parent) for inner in first.folders if inner.has_pictures)
        yield f"pictures in folders within the folder of a class belong to the class: {inner}, for example"
    tables = [file.path for file in folder.left_out if file.path.suffix.lower() in (".csv", ".tsv")]
    if tables:
        yield f"{tables[0].name} was not used: give it itself as the data if it has the labels"


def _beside_findings(folder: Folder, samples: Sequence[Sample]) -> Iterator[Finding]:
    """Yield a finding about pictures that are in no folder of a class."""
    labelled = {sample.path for sample in samples}
    if beside := [path for path in folder.all_pictures() if path not in labelled]:
        sentence = f"{len(beside)} picture(s) were left out, because they lie beside the folders of the classes"
        yield Finding("left out", sentence, tuple(beside))


def _merged_findings(classes: Sequence[_Class]) -> Iterator[Finding]:
    """Yield a finding about folders whose names differ only in Unicode's normal form, or in blanks around them."""
    folders: defaultdict[tuple[str | None, str], list[Path]] = defaultdict(list)
    for each in classes:
        folders[each.split, normalised(each.folder.name)].append(each.folder.path)
    for (_, label), paths in folders.items():
        if len(paths) > 1:
            sentence = f"{len(paths)} folders were read as the class {label}: their names differ in spelling only"
            yield Finding("label", sentence, tuple(paths))


def _copy_findings(classes: Sequence[_Class]) -> Iterator[Finding]:
    """Yield a finding about each folder that has the name of a copy of another class's folder."""
    labels = {normalised(each.folder.name).casefold() for each in classes}
    for each in classes:
        copied = without_copy_mark(each.folder.name)
        if copied is not None and copied.casefold() in labels:
            sentence = f"the class {each.folder.name} has the name of a copy of {copied}: join them, or remove the copy"
            yield Finding("label", sentence, (each.folder.path,))


def _shared_findings(classes: Sequence[_Class]) -> Iterator[Finding]:
    """Yield a finding about names of folders that occur in several classes: patients, perhaps."""
    holders: defaultdict[str, set[str]] = defaultdict(set)
    for each in classes:
        for name in _names_within(each.folder):
            holders[name].add(normalised(each.folder.name))
    if shared := sorted(name for name, labels in holders.items() if len(labels) > 1):
        yield Finding(
            "group",
            f"{len(shared)} name(s) of folders occur in several classes ({_listed(shared)}): if each is a patient or "
            f"another thing of its own, list the pictures in a {_TABLE} with the column group",
        )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold()) or name


def _listed(names: Iterable[str]) -> str:
    ordered = sorted({*names})
    return ", ".join(ordered[:_SHOWN]) + (f" and {more} more" if (more := len(ordered) - _SHOWN) > 0 else "")
