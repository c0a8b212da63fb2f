"""The pictures in a tar file, such as a WebDataset shard. Only headers are read; nothing is unpacked."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from app.batch.entries import Entry, Member, shown
from app.batch.refusals import JobRefused

_BLOCK_BYTES = 512
_MOST_HEADER_BYTES = 1024 * 1024  # of one member: names and attributes take thousands


def members(path: str, suffixes: frozenset[str]) -> Iterator[Entry]:
    """The pictures in the tar file at `path`, in its own order: members with one of these suffixes, but hidden ones.

    Other files, such as labels, are left out. Raises JobRefused for a file that is damaged or no uncompressed tar file,
    and for links, devices, sparse files, absolute names and names with `..`. Raises OSError.
    """
    try:
        with (
            _HeaderReader(io.FileIO(path)) as file,
            tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar,
        ):
            facts = Path(path).stat()
            for info in _headers(tar, file, path):
                _check(info, path)
                name = PurePosixPath(info.name)
                if info.isreg() and name.suffix.lower() in suffixes and not name.name.startswith("."):
                    place = (info.offset_data, info.size, facts.st_size, facts.st_mtime_ns)
                    yield Entry(path, Member(info.name, *place))
    except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:  # tarfile recurses from header to header
        raise JobRefused(f"{shown(path)} is damaged, or no uncompressed tar file ({error}): make it again.") from error


class _HeaderReader(io.BufferedReader):
    """A tar file that refuses to be read on where one member has too much before its contents.

    tarfile reads what a header says in one piece, keeps it, and believes any size: the holes of a small file suffice.
    """

    left_bytes = _MOST_HEADER_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        self.left_bytes -= size or 0
        if self.left_bytes < 0:
            raise tarfile.ReadError(f"a member has headers of more than {_MOST_HEADER_BYTES} bytes")
        return super().read(size)


def _headers(tar: tarfile.TarFile, file: _HeaderReader, path: str) -> Iterator[tarfile.TarInfo]:
    """All headers, none of which is kept. Raises JobRefused where one is damaged, which tarfile takes for the end."""
    while (info := tar.next()) is not None:
        vars(tar)["members"].clear()  # else all of them stay in memory
        file.left_bytes = _MOST_HEADER_BYTES - len(str(tar.pax_headers))  # of all members together, which do stay
        yield info
    file.seek(tar.offset)
    if file.read(_BLOCK_BYTES).strip(b"\0"):
        raise JobRefused(f"{shown(path)} is damaged at byte {tar.offset}: make it again.")


def _check(info: tarfile.TarInfo, path: str) -> None:
    name = PurePosixPath(info.name)
    if name.is_absolute() or ".." in name.parts:
        fault = "a name that leads out of its folder"
    elif info.issym() or info.islnk():
        fault = "a link"
    elif info.size < 0 or info.issparse() or not (info.isreg() or info.isdir()):
        fault = "neither an ordinary file nor a folder"
    else:
        return
    raise JobRefused(
        f"{shown(path)} has a member {shown(info.name)}, which is {fault}: make it again from ordinary files."
    )
