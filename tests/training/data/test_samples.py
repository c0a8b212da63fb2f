"""Data is read as it lies there or refused with a reason, and splits keep groups together and classes in proportion."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training.data.samples import (
    DataError,
    Sample,
    classes_of,
    groups_in_several_splits,
    load_samples,
    read_samples,
    split_samples,
    write_samples,
)

ROWS = """path,label,group,split,mask
a.png,cat,tom,train,m.png
b.png,dog,,train,
c.png,cat,kit,val,
d.png,dog,rex,val,
"""


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    put(*(tmp_path / f"{name}.png" for name in "abcdm"))
    (tmp_path / "labels.csv").write_text(ROWS)
    return tmp_path


def test_a_table_is_read_in_its_order(pets: Path) -> None:
    assert read_samples(pets) == [
        Sample(pets / "a.png", "cat", "tom", "train", pets / "m.png"),
        Sample(pets / "b.png", "dog", None, "train", None),
        Sample(pets / "c.png", "cat", "kit", "val", None),
        Sample(pets / "d.png", "dog", "rex", "val", None),
    ]
    assert [sample.path.name for sample in read_samples(pets, "val")] == ["c.png", "d.png"]


def test_a_table_may_be_named_itself_and_come_from_a_spreadsheet(pets: Path) -> None:
    """With a byte order mark, blanks, other columns, and no cells where nothing follows."""
    table = pets / "other.csv"
    table.write_text("path, age, label\r\na.png, 7, cat\r\nb.png,, dog\r\n", encoding="utf-8-sig", newline="")
    assert read_samples(table) == [
        Sample(pets / "a.png", "cat", None, None, None),
        Sample(pets / "b.png", "dog", None, None, None),
    ]


def test_folders_of_classes_are_read_sorted(tmp_path: Path) -> None:
    wanted = [tmp_path / "cat" / "b.JPG.png", tmp_path / "cat" / "deep" / "a.png", tmp_path / "dog" / "a.png"]
    put(*reversed(wanted), tmp_path / "cat" / ".hidden.png", tmp_path / "cat" / ".ipynb_checkpoints" / "a.png")
    put(tmp_path / ".cache" / "a.png")
    (tmp_path / "dog" / "notes.txt").write_text("not a picture")
    assert read_samples(tmp_path) == [
        Sample(path, path.relative_to(tmp_path).parts[0], None, None, None) for path in wanted
    ]


def test_folders_of_splits_are_read_with_their_splits(tmp_path: Path) -> None:
    put(*(tmp_path / split / label / "x.png" for split in ("train", "val", "test") for label in ("dog", "cat")))
    samples = read_samples(tmp_path)
    assert {(sample.split, sample.label) for sample in samples} == {
        (split, label) for split in ("train", "val", "test") for label in ("cat", "dog")
    }
    assert [sample.path for sample in read_samples(tmp_path, "val")] == [
        tmp_path / "val" / label / "x.png" for label in ("cat", "dog")
    ]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("path,label", "path,kind", "has no column label: it needs path,label"),
        ("path,label,group,split,mask\n", "", "has no column path and no column label"),
        ("b.png,dog,", "b.png, ,", "b.png has no label"),
        ("c.png,cat,kit,val", "c.png,cat,kit,valid", "unknown split valid: choose one of train, val, test"),
        ("b.png", "../b.png", r"\.\./b\.png leads out of the data"),
        ("b.png", "/etc/b.png", "/etc/b.png leads out of the data"),
        ("m.png", "../m.png", r"\.\./m\.png leads out of the data"),
        ("b.png,dog", "no.png,dog", "1 of 5 files of .* are missing, the first is .*no.png"),
        ("m.png", "no.png", "1 of 5 files of .* are missing, the first is .*no.png"),
        ("b.png", "./a.png", "a.png is listed twice"),
        ("c.png,cat,kit,val,", "c.png,cat,kit,,", "1 of 4 pictures have no split, the first is .*c.png"),
        ("d.png,dog", "d.png,fox", "class fox has no picture in train"),
        (",dog", ",cat", "pictures of 1 class"),
        ("b.png,dog,,train,", "b.png,dog,,train,,", "row 2 has more values than the header"),
        ("b.png", '"b.png', "is not a CSV in UTF-8"),
        ("dog", "h\udcfcnd", "is not a CSV in UTF-8"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(pets: Path, old: str, new: str, reason: str) -> None:
    (pets / "labels.csv").write_bytes(ROWS.replace(old, new).encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=reason):
        read_samples(pets)


def empty_class(root: Path) -> None:
    (root / "fox").mkdir()


def split_beside_class(root: Path) -> None:
    put(root / "train" / "cat" / "x.png")


def no_folder(root: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    root.rmdir()


def no_content(root: Path) -> None:
    no_folder(root)
    root.mkdir()


def split_without_classes(root: Path) -> None:
    no_content(root)
    put(root / "train" / "cat" / "x.png", root / "train" / "dog" / "x.png", root / "val" / "x.png")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (empty_class, "class folder .*fox has no pictures"),
        (split_beside_class, "has train beside cat, dog"),
        (no_folder, "there is no folder or CSV file"),
        (no_content, "has neither a labels.csv nor folders of classes"),
        (split_without_classes, "val has neither a labels.csv nor folders of classes"),
    ],
)
def test_folders_that_do_not_fit_are_refused(tmp_path: Path, spoil: Callable[[Path], None], reason: str) -> None:
    root = tmp_path / "data"
    put(root / "cat" / "x.png", root / "dog" / "x.png")
    spoil(root)
    with pytest.raises(DataError, match=reason):
        read_samples(root)


def test_a_split_that_the_data_lacks_is_refused(pets: Path) -> None:
    with pytest.raises(DataError, match="has no pictures in test"):
        read_samples(pets, "test")


def test_saved_samples_come_back_the_same(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = pets / ' ü, "1"\n.png'
    put(odd)
    samples = [*read_samples(pets), Sample(odd, ' two, "words"', None, None, None)]
    write_samples(samples, pets / "samples.csv")
    assert load_samples(pets / "samples.csv") == samples
    monkeypatch.chdir(pets)
    write_samples([replace(sample, path=Path(sample.path.name)) for sample in samples], pets / "relative.csv")
    monkeypatch.chdir("/")
    assert load_samples(pets / "relative.csv") == samples


def test_saved_samples_whose_files_are_gone_are_refused(pets: Path) -> None:
    write_samples(read_samples(pets), pets / "samples.csv")
    (pets / "c.png").unlink()
    with pytest.raises(DataError, match=r"1 of 5 files .* missing, the first is .*c\.png"):
        load_samples(pets / "samples.csv")
    with pytest.raises(DataError, match=r"there is no .*: give the folder that a training run wrote"):
        load_samples(pets / "none.csv")


def test_a_split_that_the_data_has_is_kept(pets: Path) -> None:
    samples = read_samples(pets)
    assert split_samples(samples, 0.5, 0) == samples


def test_a_group_on_two_sides_of_a_given_split_is_refused(pets: Path) -> None:
    samples = [replace(sample, group="tom") for sample in read_samples(pets)]
    assert groups_in_several_splits(samples) == {"tom": samples}
    with pytest.raises(DataError, match=r"group tom has pictures in train and val; in all, 1 group"):
        split_samples(samples, 0.5, 0)


@pytest.mark.parametrize("side", ["train", "val"])
def test_a_given_split_without_a_class_on_a_side_is_refused(pets: Path, side: str) -> None:
    samples = [sample for sample in read_samples(pets) if (sample.label, sample.split) != ("cat", side)]
    with pytest.raises(DataError, match=f"class cat has no picture in {side}"):
        split_samples(samples, 0.5, 0)


def test_a_class_of_one_group_cannot_be_split() -> None:
    samples = [*made("cat", [1, 1, 1]), *made("dog", [5])]
    with pytest.raises(DataError, match=r"class dog has no picture in .*at least two groups"):
        split_samples(samples, 0.2, 0)


def test_classes_are_those_of_train_sorted(pets: Path) -> None:
    assert classes_of(reversed(read_samples(pets))) == ("cat", "dog")
    assert classes_of(read_samples(pets, "val")) == ()


def made(label: str, sizes: Sequence[int]) -> list[Sample]:
    """Pictures of one label, in groups of these sizes; a group of one is none."""
    return [
        Sample(Path(f"/data/{label}/{group}-{number}.png"), label, f"{label}{group}" if size > 1 else None, None, None)
        for group, size in enumerate(sizes)
        for number in range(size)
    ]


group_sizes = st.lists(st.integers(1, 6), min_size=2, max_size=12)
shares = st.floats(0.05, 0.95)
seeds = st.integers(0, 2**31)


@settings(max_examples=60, deadline=None)
@given(st.lists(group_sizes, min_size=2, max_size=4), st.lists(st.integers(0, 99), max_size=8), shares, seeds)
def test_groups_stay_whole_classes_stand_on_both_sides_and_order_does_not_matter(
    classes: list[list[int]], joined: list[int], share: float, seed: int
) -> None:
    """Also where groups have several labels: `joined` more pictures go to any of three such groups."""
    samples = [sample for number, sizes in enumerate(classes) for sample in made(f"c{number}", sizes)]
    samples += [
        Sample(Path(f"/data/joined/{number}.png"), f"c{pick % len(classes)}", f"joined{pick % 3}", None, None)
        for number, pick in enumerate(joined)
    ]
    placed = split_samples(samples, share, seed)
    assert [replace(sample, split=None) for sample in placed] == samples
    assert not groups_in_several_splits(placed)
    assert {(s.label, s.split) for s in placed} == {
        (f"c{number}", side) for number in range(len(classes)) for side in ("train", "val")
    }
    shuffled = random.Random(seed).sample(samples, len(samples))
    assert sorted(split_samples(shuffled, share, seed), key=lambda s: s.path) == sorted(placed, key=lambda s: s.path)


@settings(max_examples=60, deadline=None)
@given(st.lists(group_sizes, min_size=2, max_size=3), shares, seeds)
def test_each_class_meets_its_share_to_half_of_the_smallest_group_that_can_move(
    classes: list[list[int]], share: float, seed: int
) -> None:
    placed = split_samples([s for number, sizes in enumerate(classes) for s in made(f"c{number}", sizes)], share, seed)
    for number, sizes in enumerate(classes):
        members = [sample for sample in placed if sample.label == f"c{number}"]
        in_val = sum(sample.split == "val" for sample in members)
        fuller = "val" if in_val > share * len(members) else "train"
        there = Counter(sample.group or sample.path for sample in members if sample.split == fuller)
        if len(there) > 1:
            assert abs(in_val - share * sum(sizes)) <= min(there.values()) / 2 + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_large_groups_give_their_share_to_each_side(seed: int) -> None:
    placed = split_samples([*made("cat", [8] * 10 + [1] * 80), *made("dog", [1] * 9)], 0.2, seed)
    assert Counter(sample.split for sample in placed if sample.group) == {"train": 64, "val": 16}


def test_the_seed_draws_the_split() -> None:
    samples = [*made("cat", [1] * 20), *made("dog", [2] * 20)]
    splits = {tuple(sample.split for sample in split_samples(samples, 0.2, seed)) for seed in range(20)}
    assert len(splits) == 20
