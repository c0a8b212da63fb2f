"""Layouts of folders as people have them: each is read as what it is, or refused with a sentence. None is misread."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from training.data.doctor import examine
from training.data.samples import DataError, DataSet, read_data_set, read_training_set

PETS = {"cat": 1, "dog": 1}
CAFE, CAFE_OF_MACOS = "café", unicodedata.normalize("NFD", "café")


def lay(root: Path, *paths: str) -> Path:
    """Make these files: pictures, empty folders (with a slash at the end), and texts (with any other suffix)."""
    for number, path in enumerate(paths):
        file = root / path
        (file if path.endswith("/") else file.parent).mkdir(parents=True, exist_ok=True)
        if path.endswith((".csv", ".txt", ".xml")):
            file.write_text("a text, for people")
        elif not path.endswith("/"):
            Image.new("L", (8, 8), number).save(file, "PNG")
    return root


def pets(*folders: str) -> list[str]:
    """A cat and a dog in each of these folders."""
    return [f"{folder}/{name}/{number}.png" for number, folder in enumerate(folders) for name in ("cat", "dog")]


def counted(data: DataSet) -> Counter[str]:
    """How many pictures there are of each class, or of each class in each split."""
    return Counter("/".join(filter(None, (sample.split, sample.label))) for sample in data.samples)


READ: dict[str, tuple[list[str], dict[str, int], str]] = {
    "classes": (pets("."), PETS, ""),
    "classes with folders in them": (["cat/a/1.png", "cat/b/2.png", "dog/c/1.png"], {"cat": 2, "dog": 1}, "cat/a, for"),
    "a picture of any suffix": (["cat/1", "cat/2.heic", "dog/3.JPEG", "dog/4.dat"], {"cat": 2, "dog": 2}, ""),
    "a folder around": (pets("dataset"), PETS, "the data lies in dataset"),
    "folders around": (pets("archive/pets/images"), PETS, "the data lies in archive/pets/images"),
    "a folder around, from a Mac's archive": ([*pets("d"), "__MACOSX/d/cat/._0.png", ".DS_Store"], PETS, "lies in d"),
    "capital splits": (pets("Training", "Testing"), {}, "Testing was read as test, Training was read as train"),
    "three splits": (pets("TRAIN", "valid", "test"), {}, "TRAIN was read as train, valid was read as val"),
    "splits with a suffix": (pets("train_set", "ValidationSet", "test-images"), {}, "ValidationSet was read as val"),
    "splits in one word": (pets("trainset", "devset"), {}, "devset was read as val"),
    "numbered splits": (pets("1_train", "2_dev"), {}, "2_dev was read as val"),
    "splits twice": (pets("training_set/training_set", "test_set/test_set"), {}, "test_set was read as test"),
    "splits in a folder": (pets("brain/Training", "brain/Testing"), {}, "the data lies in brain"),
    "splits with a folder for pictures": (pets("train/images", "test/images"), {}, ""),
    "a class named like a split, in splits": (
        [f"{split}/{name}/1.png" for split in ("train", "val") for name in ("bus", "car", "train")],
        {f"{split}/{name}": 1 for split in ("train", "val") for name in ("bus", "car", "train")},
        "",
    ),
    "classes with a test in their names": (
        ["blood test/1.png", "urine test/1.png"],
        {"blood test": 1, "urine test": 1},
        "",
    ),
    "masks worn": (["mask/1.png", "no_mask/2.png"], {"mask": 1, "no_mask": 1}, ""),
    "masks worn by others": (["with_mask/1.png", "without_mask/2.png"], {"with_mask": 1, "without_mask": 1}, ""),
    "photos and drawings": (["photos/1.png", "drawings/2.png"], {"photos": 1, "drawings": 1}, ""),
    "few common patients": (
        ["cat/p1/1.png", "cat/p2/2.png", "cat/p3/3.png", "dog/p3/4.png", "dog/p4/5.png", "dog/p5/6.png"],
        {"cat": 3, "dog": 3},
        "group: 1 name(s) of folders occur in several classes (p3)",
    ),
    "a folder for pictures in each class": (["cat/images/1.png", "dog/images/1.png"], PETS, ""),
    "loose pictures": ([*pets("."), "a.png", "b"], PETS, "2 picture(s) were left out, because they lie beside"),
    "loose pictures in a split": ([*pets("train", "val"), "val/a.png"], {}, "1 picture(s) were left out"),
    "texts": ([*pets("."), "README.txt", "cat/1.xml"], PETS, "not read: 1 .txt (a text file), 1 .xml (a text file)"),
    "a table of another name": ([*pets("."), "metadata.csv"], PETS, "metadata.csv was not used: give it itself"),
    "capitals": (["Benign/1.png", "benign/2.png"], {"Benign": 1, "benign": 1}, "Benign (1) and benign (1) differ only"),
    "blanks": (["mole a/1.png", "mole_a/2.png"], {"mole a": 1, "mole_a": 1}, "'mole a' (1) and mole_a (1) differ only"),
    "signs that matter": (["HER2+/1.png", "HER2-/2.png", "HER2/3.png"], {"HER2+": 1, "HER2-": 1, "HER2": 1}, ""),
    "numbers": (["1/1.png", "01/2.png", "2/3.png"], {"1": 1, "01": 1, "2": 1}, "01 (1) and 1 (1) are equal as numbers"),
    "no label": (["nan/1.png", "cat/2.png"], {"nan": 1, "cat": 1}, "nan (1) looks like a missing label"),
    "a Mac's name": ([f"{CAFE_OF_MACOS}/1.png", "bar/2.png"], {CAFE: 1, "bar": 1}, ""),
    "two forms of a name": (
        [f"{CAFE_OF_MACOS}/1.png", f"{CAFE}/2.png", "bar/3.png"],
        {CAFE: 2, "bar": 1},
        "2 folders were",
    ),
    "a blank at the end": (["cat /1.png", "cat/2.png", "dog/3.png"], {"cat": 2, "dog": 1}, "read as the class cat"),
}


@pytest.mark.parametrize("name", READ)
def test_a_layout_is_read_and_what_is_not_obvious_is_said(name: str, tmp_path: Path) -> None:
    paths, expected, remark = READ[name]
    data = read_training_set(lay(tmp_path, *paths))
    counts = counted(data)
    if expected:
        assert counts == expected
    else:
        assert {key.split("/")[0] for key in counts} <= {"train", "val", "test"} and len(counts) == len(
            pets(".")
        ) * len({sample.split for sample in data.samples})
    said = "\n".join(data.remarks)
    assert remark in said if remark else not said or "belong to the class" in said


REFUSED: dict[str, tuple[list[str], str]] = {
    "classes beside their tests": (
        [f"{name}/1.png" for name in ("cat", "cat_test", "dog", "dog_test")],
        "has cat, cat_test, which may be one class in several splits, or two classes",
    ),
    "one class beside its validation": (["Cat images/1.png", "valCat/2.png", "dog/3.png"], "has Cat images, valCat, "),
    "one class in two splits, one in none": (
        ["cat-train/1.png", "cat-test/2.png", "dog/3.png"],
        "has cat-test, cat-train, which may be one class",
    ),
    "a class beside its test, in splits": (
        [*pets("train", "val"), "train/cat_holdout/1.png"],
        "has cat, cat_holdout, which may be one class",
    ),
    "folds": (pets("fold1", "fold2"), "fold1 and fold2 hold folders of the same names (cat, dog)"),
    "folds of which one lacks a class": ([*pets("fold1"), "fold2/cat/1.png"], "hold folders of the same names (cat)"),
    "clinics": (pets("north/2019", "south/2020"), "north and south hold folders of the same names (cat, dog)"),
    "folds within a split": (pets("train/fold1", "train/fold2", "val"), "hold folders of the same names (cat, dog)"),
    "splits in another language": (pets("entrenamiento", "prueba"), "hold folders of the same names"),
    "an ambiguous split": (pets("train", "eval"), "the split eval may mean more than one"),
    "another ambiguous split": (pets("train", "hold-out"), "the split hold-out may mean more than one"),
    "a split twice": (pets("train", "val", "validation"), "has val and validation, both for val"),
    "a numbered split twice": (pets("train1", "train2"), "has train1 and train2, both for train"),
    "splits with more words": (["seg_train/cat/1.png", "seg_test/cat/1.png"], "may be splits or classes"),
    "splits with more words twice": (pets("seg_train/seg_train", "seg_test/seg_test"), "may be splits or classes"),
    "a split beside classes": ([*pets("."), "train/cat/1.png"], "has train beside cat, dog"),
    "a split beside something": ([*pets("train", "test"), "extra/1.png"], "has test, train beside extra"),
    "splits within classes": (
        [f"{name}/{split}/1.png" for name in ("cat", "dog") for split in ("Train", "Test")],
        "cat/Test is a split within another folder: put classes into the splits, as in train/cat",
    ),
    "a split within one class": (["cat/train/1.png", "cat/test/2.png", "dog/3.png"], "split within another folder"),
    "splits within folds": (pets("fold_0/train", "fold_0/val", "fold_1/train", "fold_1/val"), "fold_0 itself if it"),
    "flat splits": (["train/1.png", "test/2.png"], "train has neither a labels.csv nor folders of classes"),
    "a test without labels": ([*pets("train"), "test/1.png"], "its 1 picture(s) have no class"),
    "classes of other cases": (["train/CAT/1.png", "train/DOG/2.png", "val/cat/3.png"], "CAT (1) and cat (1) differ"),
    "pictures and masks": (["images/1.png", "masks/1.png"], "masks is no class, but by its name it holds masks"),
    "pictures and labels of boxes": (["train/images/1.png", "train/labels/1.txt", "val/images/2.png"], "labels is no"),
    "pictures and labels above splits": (["images/train/1.png", "labels/train/1.txt"], "labels is no class"),
    "masks in the classes": (["covid/images/1.png", "covid/masks/1.png", "normal/images/2.png"], "masks is no class"),
    "masks beside the pictures of a class": (["cat/1.png", "cat/masks/1.png", "dog/2.png"], "cat/masks is no class"),
    "masks beside the classes": ([*pets("."), "masks/1.png"], "masks is no class"),
    "one class": (["cat/1.png", "cat/2.png"], "has pictures of 1 class(es), cat"),
    "one class beside loose pictures": (["cat/1.png", "2.png"], "1 picture(s) were left out"),
    "a folder around beside a picture": ([*pets("data"), "preview.png"], "has pictures of 1 class(es), data"),
    "no folder": (["1.png", "2.png"], "has neither a labels.csv nor folders of classes"),
    "no folder but a table": (["1.png", "train.csv"], "to use a table with another name, give it itself"),
    "an empty class": ([*pets("."), "fox/"], "the class folder"),
    "a class of texts": ([*pets("."), "fox/1.txt"], "fox has no pictures"),
    "a class that is missing from train": ([*pets("train"), "val/fox/1.png"], "class fox has no picture in train"),
    "two tables": (["labels.csv", "Labels.CSV"], "has Labels.CSV and labels.csv: keep"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_layout_that_may_be_misread_is_refused(name: str, tmp_path: Path) -> None:
    paths, reason = REFUSED[name]
    with pytest.raises(DataError, match=re.escape(reason)):
        read_training_set(lay(tmp_path, *paths))


SPELLINGS = {
    "train": ["train", "Train", "TRAINING", "training_set", "train-images", "TrainData", "01 train"],
    "val": ["val", "VALID", "Validation", "validation_data", "dev", "Development", "ValSet"],
    "test": ["test", "Tests", "TESTING", "test_set", "TestImages", "test 1"],
}


@pytest.mark.parametrize("layout", ["folders", "table"])
@pytest.mark.parametrize("val", SPELLINGS["val"])
@pytest.mark.parametrize("train", SPELLINGS["train"])
def test_splits_in_any_spelling_are_splits(train: str, val: str, layout: str, tmp_path: Path) -> None:
    test = SPELLINGS["test"][len(train + val) % len(SPELLINGS["test"])]
    lay(tmp_path, *pets(train, val, test))
    if layout == "table":
        rows = [f"{path},{path.split('/')[1]},{path.split('/')[0]}\n" for path in pets(train, val, test)]
        (tmp_path / "labels.csv").write_text("path,label,split\n" + "".join(rows))
    data = read_training_set(tmp_path)
    assert counted(data) == {f"{split}/{name}": 1 for split in ("train", "val", "test") for name in ("cat", "dog")}
    assert ("was read as" in "".join(data.facts)) == ({train, val, test} != {"train", "val", "test"})


@pytest.mark.parametrize(
    "copy", ["cat - Copy", "cat - Copy (2)", "cat (1)", "cat copy", "cat_copy", "Cat - Kopie", "copy of cat"]
)
def test_a_folder_named_like_a_copy_is_a_finding(copy: str, tmp_path: Path) -> None:
    lay(tmp_path, *pets("."), f"{copy}/1.png")
    assert any(f"the class {copy} has the name of a copy of" in one for one in read_training_set(tmp_path).remarks)


def test_other_endings_are_no_copies(tmp_path: Path) -> None:
    lay(tmp_path, *[f"{name}/1.png" for name in ("cat", "cat (big)", "photocopy", "cat 2", "grade (1)", "copy of dog")])
    assert not any("copy of" in one for one in read_training_set(tmp_path).remarks)


def test_a_table_is_found_in_the_only_folder(tmp_path: Path) -> None:
    lay(tmp_path, "data/a.png", "data/b.png", "__MACOSX/a")
    (tmp_path / "data" / "Labels.csv").write_text("path,label\na.png,cat\nb.png,dog\n")
    data = read_training_set(tmp_path)
    assert counted(data) == PETS and data.facts == ("the data lies in data",)


def linked(root: Path, **links: str) -> None:
    """Make links in a folder, as `name="where it leads"`; `__` in a name is a slash."""
    for name, target in links.items():
        (root / name.replace("__", "/")).symlink_to(root / target)


def test_folders_and_pictures_are_read_through_links(tmp_path: Path) -> None:
    lay(tmp_path, "real/cat/1.png", "real/2.png", "data/dog/3.png")
    linked(tmp_path, data__cat="real/cat", data__dog__two="real/2.png", data__dog__gone="none", all="data")
    (tmp_path / "data" / "dog" / "itself").symlink_to("itself")
    for root in (tmp_path / "data", tmp_path / "all"):
        data = read_training_set(root)
        assert counted(data) == {"cat": 1, "dog": 2}
        assert any("2 without a suffix (a broken link)" in remark for remark in data.remarks)


LINKS: dict[str, tuple[dict[str, str], str]] = {
    "to the class itself": ({"dog__again": "dog"}, "dog/again is a link to {root}/dog, a folder above it"),
    "to the data": ({"dog__all": "."}, "dog/all is a link to {root}, a folder above it"),
    "above the data": ({"dog__up": ".."}, "dog/up is a link to {above}, a folder above it"),
    "to everything": ({"dog__up": "/"}, "dog/up is a link to /, a folder above it"),
    "from class to class": ({"dog__x": "cat", "cat__y": "dog"}, "cat/y/x is a link to {root}/cat, a folder above it"),
    "a class twice": ({"wolf": "dog"}, "wolf and {root}/dog are one folder, through a link"),
    "a picture in two classes": ({"cat__2.png": "dog/0.png"}, "dog/0.png and {root}/cat/2.png are one file"),
    "a picture twice in its class": ({"dog__2.png": "dog/0.png"}, "dog/2.png and {root}/dog/0.png are one file"),
}


@pytest.mark.parametrize("name", LINKS)
def test_what_would_count_twice_or_without_end_through_links_is_refused(name: str, tmp_path: Path) -> None:
    root = lay(tmp_path / "data", *pets("."))
    links, reason = LINKS[name]
    linked(root, **links)
    for read in (read_training_set, examine):  # what `fit` and `doctor` read
        with pytest.raises(DataError, match=re.escape(reason.format(root=root, above=root.parent))):
            read(root)


def test_many_ways_through_links_to_one_folder_end_at_once(tmp_path: Path) -> None:
    """Of forty folders with two links each to the next, there are a million million ways to the last one."""
    lay(tmp_path / "data", *pets("."), *(f"chain/{number}/" for number in range(40)))
    for number in range(39):
        linked(tmp_path / "data", **{f"chain__{number}__{side}": f"chain/{number + 1}" for side in "ab"})
    with pytest.raises(DataError, match="are one folder, through a link"):
        read_training_set(tmp_path / "data")


def test_a_table_names_a_file_once_through_links_too(tmp_path: Path) -> None:
    root = lay(tmp_path / "data", "cat/1.png", "dog/2.png")
    linked(root, other="cat")
    (root / "labels.csv").write_text("path,label\ncat/1.png,cat\nother/1.png,dog\ndog/2.png,dog\n")
    with pytest.raises(DataError, match=r"other/1\.png and .*cat/1\.png are one file, through a link"):
        read_training_set(root)
    (root / "labels.csv").write_text("path,label\nother/1.png,cat\ndog/2.png,dog\n")
    assert counted(read_training_set(root)) == PETS


TABLE = "path,label,group{extra}\n0.png,cat,{one}{split}\n1.png,dog,{two}{split}\n"


def lay_tables(root: Path, train: str, val: str) -> Path:
    """Two splits with a table each, of a cat and a dog."""
    lay(root, *(f"{split}/{number}.png" for split in ("Train", "val") for number in range(2)))
    (root / "Train" / "labels.csv").write_text(train)
    (root / "val" / "Labels.csv").write_text(val)
    return root


def test_a_table_in_each_split_is_read_as_one(tmp_path: Path) -> None:
    train, val = (TABLE.format(extra="", split="", one=one, two=two) for one, two in (("1", "2"), ("3", "4")))
    data = read_training_set(lay_tables(tmp_path, train, val))
    assert counted(data) == {f"{split}/{name}": 1 for split in ("train", "val") for name in ("cat", "dog")}
    assert "Train/labels.csv has the pictures of train" in data.facts
    assert {sample.group for sample in data.samples} == {"1", "2", "3", "4"}
    assert read_training_set(tmp_path / "Train").samples[0].split is None  # that table alone


def test_groups_and_classes_are_those_of_all_tables_of_splits(tmp_path: Path) -> None:
    train = TABLE.format(extra="", split="", one="1", two="2")
    val = TABLE.format(extra=",split", split=",Val", one="1.0", two="3")
    lay_tables(tmp_path, train, val)
    assert "group 1 is in more than one split" in "".join(finding.sentence for finding in examine(tmp_path).findings)
    assert any("1 and 1.0" in remark for remark in read_training_set(tmp_path).remarks)
    (tmp_path / "val" / "Labels.csv").write_text(val.replace("dog", "Dog"))
    assert any("Dog (1) and dog (1) differ only" in remark for remark in read_data_set(tmp_path).remarks)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda root: (root / "val" / "Labels.csv").unlink(), "has a labels.csv in some splits, but none in val"),
        (lambda root: (root / "masks").mkdir(), "has Train, val beside masks"),
        (
            lambda root: (root / "val" / "Labels.csv").write_text("path,label,split\n0.png,cat,test\n1.png,dog,test\n"),
            "says that 0.png is in test, but the table is that of val",
        ),
    ],
)
def test_tables_of_splits_that_leave_a_question_are_refused(
    spoil: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    table = TABLE.format(extra="", split="", one="", two="")
    spoil(lay_tables(tmp_path, table, table))
    with pytest.raises(DataError, match=re.escape(reason)):
        read_training_set(tmp_path)


def test_tables_named_like_splits_are_named_together(tmp_path: Path) -> None:
    lay(tmp_path, "1.png", "train.csv", "val.csv")
    with pytest.raises(DataError, match=r"to use train\.csv, val\.csv, join them in one labels\.csv"):
        read_training_set(tmp_path)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, *pets("."))
    try:
        (tmp_path / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has only names in UTF-8")
    with pytest.raises(DataError, match="name that is no UTF-8"):
        read_training_set(tmp_path)


def test_data_for_evaluation_may_lack_what_training_needs(tmp_path: Path) -> None:
    data = read_data_set(lay(tmp_path, "test/cat/1.png", "test/dog/"))
    assert counted(data) == {"test/cat": 1} and data.empty_classes == (tmp_path / "test" / "dog",)


def test_the_doctor_says_how_the_data_was_read_and_what_was_left_out(tmp_path: Path) -> None:
    lay(tmp_path, *pets("data/Training", "data/Testing"), "data/Training/loose.png")
    (tmp_path / "data" / "Training" / "cat" / "scan").write_bytes(bytes(128) + b"DICM")
    report = examine(tmp_path)
    assert "the data lies in data" in report.facts
    assert "splits: Testing was read as test, Training was read as train" in report.facts
    found = {finding.sentence: finding.paths for finding in report.findings if finding.kind == "left out"}
    assert [path.name for paths in found.values() for path in paths] == ["scan", "loose.png"]
    assert "1 of 5 files were left out" in next(iter(found)) and "1 without a suffix (a DICOM file)" in next(
        iter(found)
    )
    assert "data/Training/cat/scan" in report.text()
