"""The split of a data set into training and validation data, by whole groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from app.shapes import Bool, Float, Int
from training.data.columns import same_value
from training.data.sample import DataError, Sample
from training.spelling import column_key

_SHOWN = 10  # values in a sentence


def split_samples(
    samples: Sequence[Sample],
    val_share: float,
    seed: int,
    calibration_share: float = 0.0,
    leave_out: Mapping[str, Sequence[str]] | None = None,
) -> list[Sample]:
    """Assign each sample to train, val or calibration, and return the samples in their order.

    A split that the data already has is kept, `test` included. Otherwise whole groups are drawn for val, stratified by
    the labels that they hold. Then single groups are moved while that brings the classes' shares in val nearer to
    `val_share`. A sample without a group is a group of its own. If the data has no split `calibration` of its own,
    `calibration_share` of train is moved there in the same way. What has one of the values `leave_out` in a column of
    the table is in test, whatever its split was: what a model is worth at another site is seen on pictures of a site
    that it was not trained on.

    Each class has at least one group in each of these splits. Its share in val is `val_share` to within half a picture
    if there are no groups, and to within half of the smallest group that can still be moved if each group has one
    label. The result depends on `seed`, and not on the order of the samples.

    Raises DataError if a group is in several splits, if a class has no pictures in one of these splits, and if no
    picture has a value that is to be left out.
    """
    has_split = any(sample.split for sample in samples)
    assigned = list(samples) if has_split else [replace(sample, split="train") for sample in samples]
    assigned = left_out(assigned, leave_out or {})
    _refuse_leaks(assigned)
    if not has_split:
        assigned = _moved(assigned, "val", val_share, seed)
    if calibration_share and not any(sample.split == "calibration" for sample in assigned):
        assigned = _moved(assigned, "calibration", calibration_share, seed)
    label_splits = {(sample.label, sample.split) for sample in assigned}
    but_for = ", without those of leave_out" if leave_out else ""
    required, count = (("train", "val", "calibration"), "three") if calibration_share else (("train", "val"), "two")
    for label in sorted({sample.label for sample in assigned}):
        for split in required:
            if (label, split) not in label_splits:
                raise DataError(
                    f"class {label} has no picture in {split}{but_for}: each class needs pictures of at least {count} "
                    f"groups, some in {' and some in '.join(required)} (a picture without a group is one of its own)"
                )
    return assigned


def left_out(samples: Sequence[Sample], columns: Mapping[str, Sequence[str]]) -> list[Sample]:
    """Return the samples, with the split `test` for those that have one of the values in the column of that name.

    Raises DataError if no sample has such a value.
    """
    chosen: set[Path] = set()
    for column, values in columns.items():
        key = column_key(column)
        known = sorted({sample.columns[key] for sample in samples if key in sample.columns})
        for value in values:
            if not (meant := [each for each in known if same_value(each, value)]):
                raise DataError(
                    f"leave_out: no picture has {value} in a column {column} (those for path, label, group, split and "
                    f"mask are not meant): it has {', '.join(known[:_SHOWN]) or 'no values at all'}"
                )
            chosen |= {sample.path for sample in samples if sample.columns.get(key) in meant}
    return [replace(sample, split="test") if sample.path in chosen else sample for sample in samples]


def groups_in_several_splits(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Return the groups with pictures in more than one split, and all pictures of these groups."""
    members: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.group is not None:
            members[sample.group].append(sample)
    return {group: pictures for group, pictures in members.items() if len({sample.split for sample in pictures}) > 1}


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


def _moved(samples: Sequence[Sample], split: str, share: float, seed: int) -> list[Sample]:
    """Move a share of train to another split, by whole groups."""
    keys = _drawn_keys([sample for sample in samples if sample.split == "train"], share, seed)
    return [
        replace(sample, split=split) if sample.split == "train" and _group_key(sample) in keys else sample
        for sample in samples
    ]


def _drawn_keys(samples: Sequence[Sample], share: float, seed: int) -> set[str | Path]:
    if not samples:
        return set()
    in_order = sorted(samples, key=lambda sample: sample.path)
    keys = list(dict.fromkeys(_group_key(sample) for sample in in_order))
    labels = sorted({sample.label for sample in samples})
    row, column = ({name: i for i, name in enumerate(names)} for names in (keys, labels))
    counts = np.zeros((len(keys), len(labels)), np.int64)
    for sample in samples:
        counts[row[_group_key(sample)], column[sample.label]] += 1
    return {key for key, chosen in zip(keys, _draw_groups(counts, share, seed), strict=True) if chosen}


def _draw_groups(counts: Int[np.ndarray, "groups labels"], share: float, seed: int) -> Bool[np.ndarray, " groups"]:
    """Choose the groups to move. `counts` is the number of pictures of each label in each group."""
    rng = np.random.default_rng(seed)
    kinds, kind_of_group, sizes = np.unique(counts, axis=0, return_inverse=True, return_counts=True)
    # A kind is a set of groups with equal counts. The share is taken of each kind, so that large groups are in both
    # splits. Rounding up or down is random, with the fraction as its probability.
    chosen = np.floor(share * sizes + rng.random(len(sizes))).astype(np.int64)
    totals = counts.sum(axis=0)
    moves = np.concatenate([kinds, -kinds])
    while True:
        moved = chosen @ kinds
        costs = np.where(np.concatenate([chosen < sizes, chosen > 0]), _cost(moved + moves, totals, share), np.inf)
        best = int(costs.argmin())
        if not costs[best] < _cost(moved[None], totals, share)[0]:
            break
        chosen[best % len(kinds)] += 1 if best < len(kinds) else -1
    drawn = np.zeros(len(counts), bool)
    for kind, number in enumerate(chosen):
        drawn[rng.permutation(np.flatnonzero(kind_of_group == kind))[:number]] = True
    return drawn


def _cost(
    moved: Int[np.ndarray, "n labels"], totals: Int[np.ndarray, " labels"], share: float
) -> Float[np.ndarray, " n"]:
    """Return the distance of each candidate split from the share. A label missing from a split outweighs the rest."""
    empty = ((moved == 0) | (moved == totals)).sum(axis=1)
    distance = np.square(moved / totals - share).sum(axis=1)
    return np.asarray(len(totals) * empty + distance, np.float64)
