"""Data is read as it lies there or refused with a reason, and a run's own table comes back the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from training.data.samples import DataError, Sample, classes_of, load_samples, read_samples, write_samples

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
        Sample(pets / "a.png", "cat", None, None, None, {"age": "7"}),
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
        ("b.png,dog,", "b.png, ,", "row 2: b.png has no label"),
        ("b.png,dog,", ",dog,", "row 2 has no path"),
        ("b.png,dog,,train,", ",,,,", "row 2 is empty: remove it"),
        (
            "c.png,cat,kit,val",
            "c.png,cat,kit,fold1",
            "unknown split fold1: choose one of train, val, test, calibration",
        ),
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
    columns = {"source": "a, b", "remark": 'of "two"\nlines'}
    samples = [*read_samples(pets), Sample(odd, ' two, "words"', None, None, None, columns)]
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


def test_classes_are_those_of_train_sorted(pets: Path) -> None:
    assert classes_of(reversed(read_samples(pets))) == ("cat", "dog")
    assert classes_of(read_samples(pets, "val")) == ()
