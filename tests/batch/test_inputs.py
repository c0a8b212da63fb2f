"""From the inputs of a job to its pictures: which, in which order, and what is refused."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
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
COMPRESSED = (".tar.gz", ".tgz", ".TAR.BZ2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".zip", ".csv.gz", ".parquet.gz")


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
    assert of_csv == [f"{folder}/a.png", f"{folder}/b, c.png", far, ""]
    assert of_parquet == [f"{folder}/a.png", "", far]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_text_of_any_kind_is_a_column_of_paths(tmp_path: Path, kind: pa.DataType) -> None:
    paths = pa.array(["a.png", "a.png"])
    column = paths.dictionary_encode() if pa.types.is_dictionary(kind) else paths.cast(kind)
    pq.write_table(pa.table({"path": column}), tmp_path / "x.parquet")
    assert pq.read_schema(tmp_path / "x.parquet").field("path").type == kind
    assert found(tmp_path / "x.parquet") == ["a.png", "a.png"]


def test_a_blank_before_a_value_of_a_csv_file_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('label, path\n0, a.png\n1, "b, c.png"\n2, " d.png"\n3\n4, \n', encoding="utf-8")
    assert found(tmp_path / "list.csv") == ["a.png", "b, c.png", " d.png", "", ""]


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


def header(kind: bytes, size_bytes: int) -> bytes:
    """The block of a tar file that announces something before the contents of a member."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size_bytes
    return info.tobuf(tarfile.USTAR_FORMAT)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


@pytest.mark.parametrize(("kind", "content"), [(tarfile.GNUTYPE_LONGNAME, b"a.png\0"), (tarfile.XHDTYPE, b"")])
def test_a_tar_file_with_thousands_of_headers_in_a_row_is_refused(tmp_path: Path, kind: bytes, content: bytes) -> None:
    shard = write_tar(tmp_path / "x.tar", {"a.png": b"abc"})
    shard.write_bytes((header(kind, len(content)) + padded(content)) * 2000 + shard.read_bytes())
    with pytest.raises(JobRefused, match="is damaged"):
        found(shard)


KINDS = [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tar_file_whose_header_would_fill_the_memory_is_refused_before_it_is_read(
    tmp_path: Path, kind: bytes
) -> None:
    shard = tmp_path / "x.tar"
    shard.write_bytes(header(kind, 2**32))
    os.truncate(shard, 2**32 + 4096)  # it has a hole, so it takes no place on the disk
    tracemalloc.start()
    try:
        with pytest.raises(JobRefused, match="headers of more than"):
            found(shard)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_a_tar_file_whose_many_headers_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    member = header(tarfile.REGTYPE, 0)
    for_all = b"".join(
        header(tarfile.XGLTYPE, 300_000) + padded(b"300000 key%d=" % number + bytes(299_988)) + member
        for number in range(5)
    )
    sparse = bytearray(header(tarfile.GNUTYPE_SPARSE, 0))
    sparse[482] = 1  # another block of holes follows
    sparse[148:156] = b"%06o\0 " % (sum(sparse[:148]) + 8 * ord(" ") + sum(sparse[156:]))
    holes = (b"00000000001\0" * 42 + b"\1").ljust(512, b"\0")
    for content in (for_all, bytes(sparse) + holes * 3000):
        (tmp_path / "x.tar").write_bytes(content + bytes(1024))
        with pytest.raises(JobRefused, match="headers of more than"):
            found(tmp_path / "x.tar")


def test_long_names_and_attributes_of_a_member_are_no_damage(tmp_path: Path) -> None:
    info = tarfile.TarInfo("d/" * 2000 + "a.png")
    info.pax_headers = {"SCHILY.xattr.user.note": "n" * 200_000}
    with tarfile.open(tmp_path / "x.tar", "w", pax_headers={"comment": "c" * 1000}) as tar:
        tar.addfile(info)
    assert found(tmp_path / "x.tar") == [info.name]


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
        ("a.csv", b'path\n"a.png\nb.png\nc.png\n', "line 4, is no CSV"),
        ("a.csv", b'path\n"a.png"b\n', "line 2, is no CSV"),
        ("a.parquet", b"PAR1 and nothing else", "is damaged, or no Parquet file"),
        *((f"a{suffix}", b"", f"a{suffix} is compressed: unpack it") for suffix in COMPRESSED),
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


@pytest.mark.parametrize(
    "bytes_of",
    [lambda whole: whole[:4] + b"\xff" * 196 + whole[200:], lambda whole: whole.replace(b"path", b"p\xffth")],
)
def test_a_damaged_parquet_file_is_refused_by_name_with_the_reason(
    tmp_path: Path, bytes_of: Callable[[bytes], bytes]
) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"path": [f"{number}.png" for number in range(100)]}), file)
    file.write_bytes(bytes_of(file.read_bytes()))
    with pytest.raises(
        JobRefused, match=r"x\.parquet is damaged, or no Parquet file \(.+\): write it again"
    ) as refused:
        found(file)
    assert "None" not in str(refused.value)


def test_text_of_a_parquet_file_that_is_not_utf8_is_refused_by_the_name_of_the_file(tmp_path: Path) -> None:
    latin = pa.array([b"caf\xe9.png"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"path": latin}), tmp_path / "x.parquet")
    with pytest.raises(JobRefused, match=r"x\.parquet is damaged, .*utf-8"):
        found(tmp_path / "x.parquet")


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
        "": MissingFile,
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
