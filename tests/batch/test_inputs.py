"""From the inputs of a job to its pictures: which, in which order, and what is refused."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.batch.entries import Entry, shown
from app.batch.inputs import entries_of
from app.batch.reading import read
from app.batch.refusals import JobRefused, MissingFile, UnreadableFile
from app.errors import UploadTooLarge
from tests.support.batch import picture, write_tar

MOST = 10**6


def found(*inputs: Path | str, column: str = "path") -> list[str]:
    """The members or the names of the pictures in some inputs."""
    entries = entries_of([str(each) for each in inputs], column)
    return [entry.member.name if entry.member else Path(entry.path).name for entry in entries]


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.fsencode(name))
    return folder


def test_a_folder_gives_its_pictures_by_name_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path / "in", "b.PNG", "a.jpg", "b/2.webp", "b/10.tiff", "c.txt", ".hidden.png", ".git/x.png", "Z.gif")
    fill(tmp_path / "elsewhere", "far.png")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "d.png").symlink_to(tmp_path / "elsewhere" / "far.png")
    assert found(tmp_path / "in") == ["Z.gif", "a.jpg", "10.tiff", "2.webp", "b.PNG", "d.png"]


def test_inputs_come_one_after_the_other_and_as_often_as_they_are_named(tmp_path: Path) -> None:
    fill(tmp_path, "x/2.png", "x/1.png", "y.png")
    assert found(tmp_path / "y.png", tmp_path / "x", tmp_path / "y.png") == ["y.png", "1.png", "2.png", "y.png"]


def test_a_pattern_gives_its_files_sorted_and_no_folder(tmp_path: Path) -> None:
    fill(tmp_path, "b.png", "a.png", "c.txt", "sub/d.png")
    assert found(tmp_path / "*.png") == ["a.png", "b.png"]
    assert found(tmp_path / "**" / "*.png") == ["a.png", "b.png", "d.png"]
    assert found(tmp_path / "*") == ["a.png", "b.png", "c.txt"]
    fill(tmp_path, "[1].png")
    assert found(tmp_path / "[1].png") == ["[1].png"]  # a file of this name goes before the pattern


def test_tables_name_pictures_from_their_own_folder_on(tmp_path: Path) -> None:
    csv_file, parquet = tmp_path / "t" / "list.csv", tmp_path / "t" / "list.parquet"
    csv_file.parent.mkdir()
    far = str(tmp_path / "far.png")
    csv_file.write_text(f'\ufeffpath,label\na.png,0\n\n"b, c.png",1\n{far},2\n"",3\n', encoding="utf-8")
    pq.write_table(pa.table({"picture": ["a.png", None, far], "n": [1, 2, 3]}), parquet)
    of_csv = [entry.path for entry in entries_of([str(csv_file)], "path")]
    of_parquet = [entry.path for entry in entries_of([str(parquet)], "picture")]
    folder = str(csv_file.parent)
    assert of_csv == [f"{folder}/a.png", f"{folder}/b, c.png", far, folder]
    assert of_parquet == [f"{folder}/a.png", folder, far]


def test_a_dictionary_of_paths_is_a_column_of_paths(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": pa.array(["a.png", "a.png"]).dictionary_encode()}), tmp_path / "x.parquet")
    assert found(tmp_path / "x.parquet") == ["a.png", "a.png"]


def test_names_that_are_not_utf8_are_found_read_and_shown(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    fill(tmp_path, name)
    (tmp_path / "list.csv").write_bytes(b"path\ncaf\xe9.png\n")
    for given in (tmp_path, tmp_path / "list.csv"):
        (entry,) = entries_of([str(given)], "path")
        assert Path(entry.path).name == name and shown(entry.path).endswith("caf\\xe9.png")
        assert read(entry, "/", MOST) == os.fsencode(name)


def test_the_members_of_a_tar_file_are_read_where_they_lie(tmp_path: Path) -> None:
    long = "a/" + "long" * 40 + ".jpg"
    contents = {f"{number:03d}.{kind}": picture(number) for number in range(5) for kind in ("png", "cls")}
    contents |= {"a/._1.png": b"of macOS", long: b"long name"}
    shard = write_tar(tmp_path / "shard.tar", contents)
    assert found(shard) == [*(f"{number:03d}.png" for number in range(5)), long]
    entries = list(entries_of([str(shard)], "path"))
    for entry in entries:
        assert entry.path == str(shard) and entry.member is not None
        assert read(entry, "/", MOST) == contents[entry.member.name]


def members_that_are_refused() -> Iterator[tuple[tarfile.TarInfo, str]]:
    for name, fault in (("../x.png", "out of its folder"), ("a/../../x.png", "out of"), ("/x.png", "out of")):
        yield tarfile.TarInfo(name), fault
    for kind, fault in ((tarfile.SYMTYPE, "a link"), (tarfile.LNKTYPE, "a link"), (tarfile.FIFOTYPE, "neither")):
        info = tarfile.TarInfo("x.png")
        info.type, info.linkname = kind, "/etc/passwd"
        yield info, fault


@pytest.mark.parametrize(("info", "fault"), [*members_that_are_refused()])
def test_a_tar_file_with_links_or_ways_out_is_refused(tmp_path: Path, info: tarfile.TarInfo, fault: str) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        good = tarfile.TarInfo("a.png")
        good.size = 3
        tar.addfile(good, io.BytesIO(b"abc"))
        tar.addfile(info)
    with pytest.raises(JobRefused, match=fault):
        found(tmp_path / "x.tar")


def test_a_damaged_tar_file_is_refused_wherever_it_is_damaged(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "x.tar", {f"{number}.png": b"x" * 700 for number in range(4)})
    whole = shard.read_bytes()
    damaged = [whole[:2300], whole[:1700], whole[:100], b"", gzip.compress(whole)]
    for place in (0, 3 * 512, 6 * 512):  # headers: each member has one block, and two of contents
        damaged.append(whole[:place] + b"\xff" * 512 + whole[place + 512 :])
    for content in damaged:
        shard.write_bytes(content)
        with pytest.raises(JobRefused, match="damaged"):
            found(shard)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"file,label\nx.png,1\n", "one column path: name the column of paths with --column; it has file"),
        ("a.csv", b"path,path\nx.png,1\n", "one column path"),
        ("a.csv", b"", "it has none"),
        ("a.csv", b"path\n", "has no picture"),
        ("a.csv", b'path\n"' + b"x" * 200_000 + b'"\n', "line 2, is no CSV"),
        ("a.parquet", b"PAR1 and nothing else", "is no Parquet file, or damaged"),
        ("a.png/b.png", b"", "a.png has no picture"),
    ],
)
def test_inputs_that_cannot_be_used_are_refused(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    fill(tmp_path, name)
    (tmp_path / name).write_bytes(content)
    if "/" in name:
        (tmp_path / name).unlink()
    with pytest.raises(JobRefused, match=sentence):
        found(tmp_path / name.partition("/")[0])


def test_a_column_of_numbers_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": [1, 2]}), tmp_path / "x.parquet")
    with pytest.raises(JobRefused, match="values of type int64"):
        found(tmp_path / "x.parquet")
    with pytest.raises(JobRefused, match="it has path"):
        found(tmp_path / "x.parquet", column="picture")


@pytest.mark.parametrize("name", ["absent", "*.absent", "loop", "x" * 300, "folder/loop"])
def test_what_is_not_there_or_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(JobRefused) as refused:
        found(tmp_path / name)
    assert name[:50] in str(refused.value) and str(refused.value).endswith(".")


def test_inputs_are_looked_at_one_picture_at_a_time(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    entries = entries_of([str(tmp_path / "a.png"), str(tmp_path / "absent")], "path")
    assert [Path(entry.path).name for entry in islice(entries, 1)] == ["a.png"]
    with pytest.raises(JobRefused):
        next(entries)


def test_what_cannot_be_read_is_refused_by_a_stable_kind(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "large.png")
    (tmp_path / "large.png").write_bytes(bytes(101))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    refused = {
        "absent.png": MissingFile,
        "a.png/b.png": MissingFile,
        "": UnreadableFile,
        "pipe.png": UnreadableFile,
        "loop.png": UnreadableFile,
        "a\0b.png": UnreadableFile,
        "y" * 300: UnreadableFile,
        "/dev/zero": UnreadableFile,
        "large.png": UploadTooLarge,
    }
    for name, kind in refused.items():
        with pytest.raises(kind) as error:
            read(Entry(name), str(tmp_path), 100)
        assert type(error.value) is kind and str(error.value).endswith("."), name
    assert read(Entry("a.png"), str(tmp_path), 100) == b"a.png"


def test_a_tar_file_that_was_changed_is_not_read(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "x.tar", {"a.png": b"one", "b.png": b"two"})
    first, second = entries_of([str(shard)], "path")
    assert (read(first, "/", MOST), read(second, "/", MOST)) == (b"one", b"two")
    write_tar(shard, {"a.png": b"another", "b.png": b"two"})
    os.utime(shard, ns=(1, 1))
    with pytest.raises(JobRefused, match="changed since the job began"):
        read(second, "/", MOST)
