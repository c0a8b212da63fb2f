"""A table from any program is read as its author meant it, or refused with the row."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from PIL import Image

from training.data.groups import group_key
from training.data.samples import DataError, Sample, read_data_set, read_training_set

NFC, NFD = (unicodedata.normalize(form, "naïve café") for form in ("NFC", "NFD"))


def pictures(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\x89PNG\r\n\x1a\n")


def read(root: Path, content: str | bytes) -> list[Sample]:
    data = content if isinstance(content, bytes) else content.encode()
    (root / "labels.csv").write_bytes(data)
    return list(read_data_set(root).samples)


PLAIN = [("a.png", "cat"), ("b c.png", "dog, big")]
READ: dict[str, str | bytes] = {
    "plain": 'path,label\na.png,cat\nb c.png,"dog, big"\n',
    "semicolons": "path;label\na.png;cat\nb c.png;dog, big\n",
    "semicolons and decimal commas": "path;score;label\na.png;0,5;cat\nb c.png;1,25;dog, big\n",
    "tabs": "path\tlabel\na.png\tcat\nb c.png\tdog, big\n",
    "bars": "path|label\na.png|cat\nb c.png|dog, big\n",
    "Excel's first line": "sep=;\r\npath;label\r\na.png;cat\r\nb c.png;dog, big\r\n",
    "Excel's first line in quotes": '"sep=;"\npath;label\na.png;cat\nb c.png;dog, big\n',
    "Excel's first line for tabs": "sep=\t\npath\tlabel\na.png\tcat\nb c.png\tdog, big\n",
    "an unusual delimiter that is named": "sep=:\npath:label\na.png:cat\nb c.png:dog, big\n",
    "UTF-8 with a mark": 'path,label\na.png,cat\nb c.png,"dog, big"\n'.encode("utf-8-sig"),
    "UTF-16 with a mark": "path;label\na.png;cat\nb c.png;dog, big\n".encode("utf-16"),
    "UTF-16, the other order": b"\xfe\xff" + "path\tlabel\na.png\tcat\nb c.png\tdog, big\n".encode("utf-16-be"),
    "UTF-32 with a mark": "path;label\na.png;cat\nb c.png;dog, big\n".encode("utf-32"),
    "old line ends": 'path,label\ra.png,cat\rb c.png,"dog, big"\r',
    "mixed line ends": 'path,label\r\na.png,cat\nb c.png,"dog, big"',
    "capitals and blanks in the header": ' Path , LABEL \na.png,cat\nb c.png,"dog, big"\n',
    "quotes everywhere": '"path","label"\n"a.png","cat"\n"b c.png","dog, big"\n',
    "quotes after blanks": 'path, label\na.png, "cat"\nb c.png, "dog, big"\n',
    "blank lines": '\n\npath,label\n\na.png,cat\n\nb c.png,"dog, big"\n\n',
    "a delimiter at every end": 'path,label,\na.png,cat,\nb c.png,"dog, big",\n',
    "columns in another order, and others twice": 'x,label,x,path\n1,cat,2,a.png\n1,"dog, big",2,b c.png\n',
    "backslashes": 'path,label\n.\\a.png,cat\n.\\b c.png,"dog, big"\n',
}


@pytest.mark.parametrize("name", READ)
def test_a_table_that_can_be_understood_in_one_way_is_read(name: str, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b c.png")
    assert [(sample.path.name, sample.label) for sample in read(tmp_path, READ[name])] == PLAIN
    assert all(sample.path.is_file() for sample in read(tmp_path, READ[name]))


REFUSED: dict[str, tuple[str | bytes, str]] = {
    **{
        f"a label of several classes, {joined}": (
            f'path,label\na.png,cat\nb c.png,dog\nc.png,"{joined}"\n',
            "joins classes, such as cat: a picture has one class here",
        )
        for joined in (
            "cat|dog",
            "cat;dog",
            "cat, dog",
            "['cat', 'dog']",
            "cat | bird",
            "cat/dog",
            "cat+dog",
            "{dog,cat}",
        )
    },
    "labels that are all lists": (
        "path,label\na.png,['cat']\nb c.png,\"['cat','dog']\"\n",
        "joins classes, such as cat",
    ),
    "no header": ("a.png,cat\n", "has no column path and no column label: it needs path,label"),
    "other names": (
        "filename;class\na.png;cat\n",
        "if filename is the path, call it path; if class is the label, call it label",
    ),
    "comments": ("# made by me\npath,label\na.png,cat\n", "has # made by me: name the columns in the first row"),
    "nothing": ("", "has no column path and no column label"),
    "blank lines only": ("\n\n", "has no column path"),
    "a column twice": ("path,Path,label\na.png,a.png,cat\n", "has two columns path: keep the one"),
    "the label twice": ("path,label,label\na.png,cat,dog\n", "has two columns label: keep the one"),
    "two delimiters in the header": ("path;label,split\na.png;cat,train\n", "has no column"),
    "another delimiter in the rows": ("path,label\na.png;cat\n", "line 2: row 1: a.png;cat has no label"),
    "another delimiter than Excel's first line says": ("sep=;\npath,label\na.png,cat\n", "has no column"),
    "decimal commas": ("path,label,score\na.png,cat,0,5\n", "row 1 has more values than the header"),
    "a comment among the rows": ("path,label\n# dogs\na.png,cat\n", "row 1: # dogs has no label"),
    "an empty row of a spreadsheet": ("path,label\na.png,cat\n,\n", "line 3: row 2 is empty"),
    "blanks for a row": ("path,label\na.png,cat\n  \n", "line 3: row 2 is empty"),
    "no path": ("path,label\n,cat\n", "row 1 has no path"),
    "no label": ("path,label\na.png\n", "row 1: a.png has no label"),
    "after Excel's first line": ("sep=;\npath;label\n;cat\n", "line 3: row 1 has no path"),
    "a quote that is not closed": ('path,label\na.png,"cat\nb c.png,dog\n', "is not a CSV in UTF-8: row 1"),
    "quotes that swallow rows": ('path,label\na.png,"cat\nb c.png,dog"\n', "column label: the value has a line break"),
    "a quote by a backslash": ('path,label\na.png,"a \\"cat\\""\n', "is not a CSV in UTF-8: row 1"),
    "Latin-1": ("path,label\na.png,Bär\n".encode("latin-1"), "is not a CSV in UTF-8: line 2"),
    "UTF-16 without a mark": (
        "path,label\na.png,cat\n".encode("utf-16-le"),
        "is not a CSV in UTF-8: line 1 has a zero",
    ),
    "half of UTF-16": ("path,label\na.png,cat\n".encode("utf-16")[:-1], "is not a CSV in UTF-8"),
    "a workbook": (b"PK\x03\x04" + bytes(30), "is a spreadsheet's own file: save it as CSV"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0", "is not a CSV in UTF-8"),
    "a huge cell": ("path,label\na.png," + "x" * 200_000, "is not a CSV in UTF-8: row 1"),
    "a huge name": ("path,label\n" + "x" * 5000 + ",cat\n", "1 of 1 files of"),
    "an unknown split": ("path,label,split\na.png,cat,fold 1\n", "row 1: a.png: unknown split fold 1: choose one of"),
    "an ambiguous split": ("path,label,split\na.png,cat,holdout\n", "row 1: a.png: the split holdout may mean more"),
    "a path of Windows": ("path,label\nC:\\data\\a.png,cat\n", "leads out of the data"),
    "a share of Windows": ("path,label\n\\\\host\\data\\a.png,cat\n", "leads out of the data"),
    "out by backslashes": ("path,label\nx\\..\\..\\a.png,cat\n", "leads out of the data"),
    "out": ("path,label\nx/../../a.png,cat\n", "leads out of the data"),
    "elsewhere": ("path,label\n/etc/hostname,cat\n", "/etc/hostname leads out of the data"),
    "the folder itself": ("path,label\n.,cat\n", "1 of 1 files of"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_any_other_table_is_refused_with_its_row(name: str, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b c.png")
    content, reason = REFUSED[name]
    with pytest.raises(DataError, match=re.escape(reason)):
        read(tmp_path, content)


def test_absolute_paths_within_the_data_are_paths_within_the_data(tmp_path: Path) -> None:
    pictures(tmp_path / "data", "x/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for written in (tmp_path / "data", tmp_path / "link"):
        for root in (tmp_path / "data", tmp_path / "link"):
            if root.name == "link" or written.name == "data":
                assert read(root, f"path,label\n{written / 'x' / 'a.png'},cat\n")[0].path == root / "x" / "a.png"


def test_a_backslash_in_a_name_is_tried_first_as_it_is(tmp_path: Path) -> None:
    pictures(tmp_path, "x\\a.png", "x/a.png", "y/b.png")
    samples = read(tmp_path, "path,label,mask\nx\\a.png,cat,y\\b.png\nx/a.png,dog,\n")
    assert [sample.path.relative_to(tmp_path).as_posix() for sample in samples] == ["x\\a.png", "x/a.png"]
    assert samples[0].mask == tmp_path / "y" / "b.png"


@pytest.mark.parametrize("on_disk", [NFC, NFD])
@pytest.mark.parametrize("listed", [NFC, NFD])
def test_names_of_macos_are_the_same_names(on_disk: str, listed: str, tmp_path: Path) -> None:
    pictures(tmp_path, f"{on_disk}/{on_disk}.png", "b.png")
    samples = read(tmp_path, f"path,label,group\n{listed}/{listed}.png,{listed},{listed}\nb.png,{NFC},{NFC}\n")
    assert [(sample.label, sample.group) for sample in samples] == [(NFC, NFC)] * 2
    assert samples[0].path.is_file()
    with pytest.raises(DataError, match="listed twice"):
        read(tmp_path, f"path,label\n{NFC}/{NFD}.png,a\n{NFD}/{NFC}.png,b\n")


def test_a_name_that_fits_two_files_is_read_exactly_or_refused(tmp_path: Path) -> None:
    pictures(tmp_path, f"{NFC}.png", f"{NFD}.png")
    if len([*tmp_path.iterdir()]) < 2:
        pytest.skip("this file system has one form of each name")
    assert [sample.path.name for sample in read(tmp_path, f"path,label\n{NFD}.png,a\n{NFC}.png,b\n")] == [
        f"{NFD}.png",
        f"{NFC}.png",
    ]
    halves = "na" + unicodedata.normalize("NFD", "ï") + "ve " + unicodedata.normalize("NFC", "café")
    with pytest.raises(DataError, match=r"row 1: .* may be any of 2 files"):
        read(tmp_path, f"path,label\n{halves}.png,a\n")


def test_groups_that_differ_in_case_or_blanks_are_one_and_a_finding(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "labels.csv").write_text("path,label,group\na.png,cat,Patient 1\nb.png,dog,patient1\n")
    data = read_data_set(tmp_path)
    (finding,) = data.findings
    assert finding.kind == "group" and "'Patient 1' and patient1" in finding.sentence
    assert [sample.group for sample in data.samples] == ["Patient 1"] * 2


# What people have in names of files and classes, delimiters, quotes and letters of two forms included.
names = st.text(
    st.sampled_from("abZ059 ,;|\t:'\"#=._-+éßж字") | st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")),
    min_size=1,
    max_size=12,
).filter(lambda name: name == name.strip() and "/" not in name and "\\" not in name and len(name.encode()) < 80)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252", "utf-16-le")


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(names, names, names | st.just("")), min_size=1, max_size=5, unique_by=lambda row: row[0]),
    st.sampled_from(",;\t|:"),
    st.sampled_from(ENCODINGS),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.permutations(["path", "label", "group", "note"]),
    st.booleans(),
)
def test_what_was_written_is_read_or_refused(
    rows: Sequence[tuple[str, str, str]],
    delimiter: str,
    encoding: str,
    line_end: str,
    quoting: Literal[0, 1, 2],
    columns: list[str],
    excel: bool,
) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        paths = [f"{number}{name}.png" for number, (name, _, _) in enumerate(rows)]
        pictures(root, *paths)
        text = io.StringIO()
        writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
        writer.writerow([name.title() if excel else name for name in columns])
        for path, (_, label, group) in zip(paths, rows, strict=True):
            cells = {"path": path, "label": label, "group": group, "note": "0,5;1"}
            writer.writerow([cells[name] for name in columns])
        content = (f"sep={delimiter}{line_end}" if excel else "") + text.getvalue()
        try:
            data = content.encode(encoding)
        except UnicodeEncodeError:
            reject()
        if encoding in ("latin-1", "cp1252"):
            assume(content.isascii() or not is_utf8(data))  # some texts are valid in both, and nobody can tell
        try:
            samples = read(root, data)
        except DataError as error:
            read_always = encoding in ENCODINGS[:4] and (excel or delimiter != ":")
            assert not read_always, f"refused: {error}"
            return
        assert [sample.path for sample in samples] == [root / path for path in paths]
        nfc = [tuple(unicodedata.normalize("NFC", name).strip() for name in row[1:]) for row in rows]
        assert [sample.label for sample in samples] == [label for label, _ in nfc]
        first = {group_key(group): group for _, group in reversed(nfc) if group_key(group) is not None}
        assert [sample.group for sample in samples] == [first.get(group_key(group)) for _, group in nfc]


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=200) | st.text(st.sampled_from('path,label;\n\r"\t sep=#a.png\0'), max_size=80).map(str.encode)
)
def test_no_table_does_anything_but_be_read_or_refused(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        pictures(Path(folder), "a.png")
        for start in (b"", b"path,label\n", b"\xff\xfe", b"sep=;\npath;label;split;mask\n"):
            with contextlib.suppress(DataError):
                read(Path(folder), start + content)


@pytest.mark.parametrize(
    ("column", "values", "meant"),
    [
        ("Groups", "ppqq", "group"),
        ("patient_id", "ppqq", "group"),
        ("fold", "1122", "split"),
        ("Set", ["train", "train", "test", "test"], "split"),
    ],
)
def test_a_column_that_is_probably_another_is_named(
    column: str, values: Sequence[str], meant: str, tmp_path: Path
) -> None:
    rows = [f"{n}.png,{label},{value}" for n, (label, value) in enumerate(zip("abab", values, strict=True))]
    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("\n".join([f"path,label,{column}", *rows]))
    (sentence,) = [one for one in read_data_set(tmp_path).remarks if column.casefold() in one]
    assert sentence.endswith(f"call it {meant}")
    # A patient of one picture each says nothing.
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,patient_id", *(f"{n}.png,a,p{n}" for n in range(4))]))
    assert not any("patient_id" in one for one in read_data_set(tmp_path).remarks)


@pytest.mark.parametrize(
    "column",
    [
        "is_train",
        "isTrain",
        "is_test",
        "train",
        "Val",
        "validation_set",
        "is_training_image",
        "used for testing",
        "eval",
    ],
)
def test_a_column_that_marks_a_split_is_named(column: str, tmp_path: Path) -> None:
    pictures(tmp_path, "1.png", "2.png")
    text = f"path,label,{{}}{column}\n1.png,cat,{{}}1\n2.png,dog,{{}}0\n"
    (tmp_path / "labels.csv").write_text(text.format("", "", ""))
    (sentence,) = [one for one in read_data_set(tmp_path).remarks if column.casefold() in one]
    assert "is not read" in sentence and "write a column split with train, val or test" in sentence
    (tmp_path / "labels.csv").write_text(text.format("split,", "train,", "val,"))
    assert not any("is not read" in one for one in read_data_set(tmp_path).remarks)


@pytest.mark.parametrize("column", ["test_result", "trainer", "value", "is_malignant", "device"])
def test_other_columns_mark_no_split(column: str, tmp_path: Path) -> None:
    pictures(tmp_path, "1.png", "2.png")
    (tmp_path / "labels.csv").write_text(f"path,label,{column}\n1.png,cat,1\n2.png,dog,0\n")
    assert not any("is not read" in one for one in read_data_set(tmp_path).remarks)


@pytest.mark.parametrize(
    "labels", [("cat", "cat, big"), ("plant|apple", "plant|corn"), ("HER2+", "HER2"), ("a/b", "a"), ("0,5", "0")]
)
def test_names_that_join_no_classes_are_names(labels: tuple[str, str], tmp_path: Path) -> None:
    pictures(tmp_path, "1.png", "2.png")
    one, other = labels
    assert [sample.label for sample in read(tmp_path, f'path,label\n1.png,"{one}"\n2.png,"{other}"\n')] == [*labels]


def test_pictures_beside_a_table_that_are_not_in_it_are_counted(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name in ("a.png", "b.png", "more/c.JPG", ".hidden.png", "a_mask.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "labels.csv").write_text("path,label,mask\na.png,x,a_mask.png\n")
    (sentence,) = [one for one in read_data_set(tmp_path).remarks if "beside labels.csv" in one]
    assert "2 pictures" in sentence and "b.png" in sentence


@pytest.mark.parametrize(
    "name", ["a\tb", "b\x07", "*", "\uff0a", "\u200b", "\u3164", "a\u200b", "\u2067a", "a\u202eb", "a\u00adb", "a  b"]
)
def test_a_class_that_no_bundle_can_have_is_refused_before_the_training(name: str, tmp_path: Path) -> None:
    for label in (name, "other"):
        (tmp_path / "train" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / label / "1.png")
    with pytest.raises(DataError, match="rename it"):
        read_training_set(tmp_path)
