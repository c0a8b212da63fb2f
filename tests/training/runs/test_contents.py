"""The record of pictures' contents: cheap to make, blind to times, and different where a file is another."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.data.draw import draw_lesion
from training.data.sample import DataError
from training.runs.contents import changed_files, content_mark, content_marks, forget_marks, read_marks, write_marks

KIB = 1024


@given(st.binary(max_size=300), st.binary(max_size=300), st.sampled_from([0, KIB, 16 * KIB, 63 * KIB]))
def test_small_files_have_one_mark_exactly_if_they_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, one: bytes, other: bytes, more: int
) -> None:
    folder = tmp_path_factory.mktemp("files")
    for name, content in (("one", one), ("other", other)):
        (folder / name).write_bytes(bytes(more) + content)
    assert (content_mark(folder / "one") == content_mark(folder / "other")) == (one == other)


@pytest.mark.parametrize("place", [0, 16 * KIB - 1, 1000 * KIB - 1, 984 * KIB])
def test_a_large_file_is_another_if_its_size_its_beginning_or_its_end_is(place: int, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(bytes(1000 * KIB))
    before = content_mark(file)
    os.utime(file, (0, 0))
    assert content_mark(file) == before
    content = bytearray(1000 * KIB)
    content[place] = 1
    file.write_bytes(content)
    assert content_mark(file) != before
    file.write_bytes(bytes(1000 * KIB + 1))
    assert content_mark(file) != before


def test_a_picture_that_was_edited_or_saved_anew_is_another(tmp_path: Path) -> None:
    image = draw_lesion(np.random.default_rng(0), "benign", 512).image
    for suffix in ("jpg", "png", "webp"):
        file = tmp_path / f"a.{suffix}"
        Image.fromarray(image).save(file, quality=90)
        before = content_mark(file)
        edited = image.copy()
        edited[250:260, 250:260] = 0
        Image.fromarray(edited).save(file, quality=90)
        assert content_mark(file) != before


def test_of_a_file_of_any_size_a_little_is_read(tmp_path: Path) -> None:
    """A tebibyte of holes would take minutes."""
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    mark = content_mark(tmp_path / "huge")
    assert mark is not None and mark.startswith(f"{1 << 40} ")


def test_marks_are_read_as_they_were_written(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", 'ü, "1"\n.png', "none", "empty")]
    for path in (*paths[:2], paths[3]):
        path.write_bytes(path.name.encode() if path.name != "empty" else b"")
    marks = content_marks(paths)
    assert [path.name for path, mark in marks.items() if mark is None] == ["none"]
    write_marks(marks, tmp_path / "contents.csv")
    assert read_marks(tmp_path / "contents.csv") == marks
    assert changed_files(marks, content_marks(paths)) == []


def test_only_a_file_that_is_as_it_was_recorded_is_forgotten(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name)
    table = tmp_path / "contents.csv"
    write_marks(content_marks(paths), table)
    paths[1].write_text("damaged later")
    forget_marks(table, paths[:2])
    marks = read_marks(table)
    assert [marks[path] is None for path in paths] == [True, False, False]
    paths[0].write_text("put back")
    assert changed_files(marks, content_marks(paths)) == [paths[1]]


DAMAGED = [b"", b"\xff", b"path,bytes\na,1\n", b"path,bytes,sha256\na,many,0\n", b'path,bytes,sha256\n"a']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_record_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "contents.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"contents\.csv is damaged"):
        read_marks(tmp_path / "contents.csv")
