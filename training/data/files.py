"""What lies in a folder: pictures, told by their content, and other files, told by what they are.

A picture with a wrong suffix, or with none, is a picture. Whatever cannot be read is counted, so that no data set is
smaller than its owner thinks.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.pictures.formats import SNIFFED_BYTES, describe, format_of, readable_formats
from training.data.names import is_utf8
from training.data.sample import DataError, Finding, Sample

_OF_SYSTEMS = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "$recycle.bin", "@eadir", "lost+found",
               "system volume information"}  # fmt: skip
_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"}
_UNKNOWN, _TEXTS = "no picture in a known format", ("a text file", "a web page", "an XML file")


@dataclass(frozen=True)
class LeftOut:
    """A file that is no picture that can be read, and what it is instead, for a sentence."""

    path: Path
    what: str

    @property
    def is_expected(self) -> bool:
        """Whether it is a text beside the pictures, such as a licence, and does not pretend to be a picture."""
        return self.what in _TEXTS and self.path.suffix.lower() not in _SUFFIXES


@dataclass(frozen=True)
class Folder:
    """A folder with all that is below it, sorted. Hidden files, and those of operating systems, are no part of it."""

    path: Path
    folders: tuple[Folder, ...]
    pictures: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def has_pictures(self) -> bool:
        """Whether there is a picture in it or anywhere below it."""
        return bool(self.pictures) or any(folder.has_pictures for folder in self.folders)

    def all_pictures(self) -> list[Path]:
        """Return all pictures in it and below it, sorted."""
        return sorted(path for folder in self.walk() for path in folder.pictures)

    def walk(self) -> Iterator[Folder]:
        """Yield the folder itself, and then all folders below it."""
        yield self
        for folder in self.folders:
            yield from folder.walk()


def scan(path: Path) -> Folder:
    """Read the folder `path` with all that is below it, through links too.

    Raises DataError for a link to a folder above it, for a folder that can be reached in two ways, since its pictures
    would count twice, and for a name that is no text in UTF-8.
    """
    real = path.resolve()
    return _scan(path, {_identity(folder): folder for folder in (*reversed(real.parents), real)}, {})


def _scan(path: Path, above: dict[tuple[int, int], Path], seen: dict[tuple[int, int], Path]) -> Folder:
    """`scan` of a folder, given the folders above it, and those that were read before it, by their identities."""
    folders, pictures, left_out = [], [], []
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        file = path / entry.name
        if entry.name.startswith(".") or entry.name.casefold() in _OF_SYSTEMS:
            continue
        if not is_utf8(entry.name):
            raise DataError(f"{path} has a name that is no UTF-8, {entry.name!a}: rename it")
        if _is_folder(entry):
            identity = _identity(file)
            if identity in above:
                raise DataError(f"{file} is a link to {above[identity]}, a folder above it: remove the link")
            if identity in seen:
                raise DataError(f"{file} and {seen[identity]} are one folder, through a link: keep one of them")
            seen[identity] = file
            folders.append(_scan(file, above | {identity: file}, seen))
        elif (what := no_picture(file)) is None:
            pictures.append(file)
        else:
            left_out.append(LeftOut(file, what))
    return Folder(path, tuple(folders), tuple(pictures), tuple(left_out))


def refuse_repeated(files: Iterable[Path]) -> None:
    """Raises DataError for a file that is there twice: by the same path, or through links."""
    folders: dict[Path, Path] = {}
    seen: dict[Path, Path] = {}
    for file in files:
        if (folder := folders.get(file.parent)) is None:
            folder = folders[file.parent] = file.parent.resolve()
        real = file.resolve() if file.is_symlink() else folder / file.name
        if (first := seen.get(real)) == file:
            raise DataError(f"{file} is listed twice: remove one of its rows")
        if first is not None:
            raise DataError(f"{file} and {first} are one file, through a link: keep one of them")
        seen[real] = file


def named_like_pictures(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below it whose suffix is that of a picture, but for hidden ones.

    Links to folders are not followed: what lies behind them may be other data.
    """
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name.casefold() not in _OF_SYSTEMS]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in _SUFFIXES:
                yield Path(path) / name


def is_file(path: Path) -> bool:
    """Whether there is a file. A name that no file can have, because it is too long, is that of none."""
    try:
        return path.is_file()
    except OSError:
        return False


def no_picture(path: Path) -> str | None:
    """Return None if the file is a picture in a format that can be read, or what it is instead: `a DICOM file`.

    Only its first bytes are read, so a damaged picture is a picture.
    """
    if not is_file(path):
        return "a broken link" if path.is_symlink() else "no regular file"
    try:
        with path.open("rb", buffering=0) as file:
            start = file.read(SNIFFED_BYTES)
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    if format_of(start) in readable_formats():
        return None
    if not start:
        return "empty"
    what = describe(start)
    return "a text file" if what == _UNKNOWN and _is_text(start) else what


def refuse_unreadable(samples: Sequence[Sample]) -> None:
    """Raises DataError if any sample is no picture that can be read, and names all kinds of such files."""
    files = [LeftOut(sample.path, what) for sample in samples if (what := no_picture(sample.path)) is not None]
    if files:
        raise DataError(
            f"{len(files)} of {len(samples)} pictures cannot be read: {_counted(files)}; the first is {files[0].path}: "
            f"convert them to JPEG or PNG, or remove their rows"
        )


def left_out_facts(files: Sequence[LeftOut]) -> Iterator[str]:
    """Yield a fact that counts the texts that lie beside the pictures."""
    if texts := [file for file in files if file.is_expected]:
        yield f"not read: {_counted(texts)}"


def left_out_findings(files: Sequence[LeftOut], pictures: int) -> Iterator[Finding]:
    """Yield a finding that counts the files that may be pictures and cannot be read. `pictures` were read."""
    if others := [file for file in files if not file.is_expected]:
        sentence = (
            f"{len(others)} of {len(others) + pictures} files were left out, because they are no pictures that can be "
            f"read: {_counted(others)}"
        )
        yield Finding("left out", sentence, tuple(file.path for file in others))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _counted(files: Sequence[LeftOut]) -> str:
    counts = Counter((file.path.suffix.lower() or "without a suffix", file.what) for file in files)
    return ", ".join(f"{count} {suffix} ({what})" for (suffix, what), count in counts.most_common())


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # otherwise the last character is cut
            return False
        text = start[: error.start].decode("utf-8")
    return not any(character < " " and character not in "\t\n\r\f" for character in text)
