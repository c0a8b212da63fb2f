"""Reading of files that `torch.save` wrote, and what no weights may be."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_ARCHIVE = b"PK"  # how a zip archive begins
_END_BYTES, _LONG_END_BYTES = 22, 98  # of its end, which says where the directory is, and with the long form before it


def load_torch_file(file: io.BytesIO | io.BufferedReader) -> Any:
    """The tensors and plain values in a file, on the CPU. Nothing else is unpickled.

    Raises ValueError if the file would unpack to more than it has: `torch.save` does not compress, so a small file that
    takes much memory is meant to. Raises what `torch.load` raises.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    # torch itself takes a file with this beginning for an archive, and no other.
    if file.read(len(_ARCHIVE)) == _ARCHIVE and (unpacked := _unpacked_bytes(file)) > size:
        raise ValueError(f"it has {size:,} bytes, but would unpack to {unpacked:,}")
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def not_finite_tensor(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with a NaN or an infinity, or None."""
    return next((name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())), None)


def _unpacked_bytes(file: io.BytesIO | io.BufferedReader) -> int:
    """The bytes of all records of an archive, as torch reads it: other readers may find another list of records.

    A storage's name is a number. torch ignores the case of names, so that it would read one with letters repeatedly.
    """
    file.seek(0)
    try:
        reader: Any = torch._C.PyTorchFileReader(file)
        names = reader.get_all_records()
        if hasattr(reader, "get_record_size"):
            sizes = [reader.get_record_size(name) for name in names]
        else:  # as in torch 2.11
            sizes = _sizes_in_directory(file, [reader.get_record_header_offset(name) for name in names])
    except (RuntimeError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"it is a damaged archive: {str(error).splitlines()[0]}") from error
    for name in names:
        if re.fullmatch(r"(?is)data/.*[^0-9].*", name):
            raise ValueError(f"it has a storage {name[:200]!r}, as torch.save never names one")
    return sum(sizes)


def _sizes_in_directory(file: io.BytesIO | io.BufferedReader, offsets: list[int]) -> list[int]:
    """The unpacked sizes of an archive's records by its directory, for a torch that does not say them.

    `offsets` are where torch finds the records. An archive may have several directories, which readers look for in
    different ways. Raises ValueError if it is not certain that torch reads the same one, and what `zipfile` raises.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _LONG_END_BYTES))
    long_end = file.read()
    end = long_end[-_END_BYTES:]
    if not (end.startswith(b"PK\x05\x06") and end.endswith(bytes(2))):  # with a comment of no bytes
        raise ValueError("its directory is not where torch.save writes it")
    start = int.from_bytes(end[16:20], "little")
    if long_end[56:60] == b"PK\x06\x07":  # where the long form of the end is, whose offsets have 64 bits
        if int.from_bytes(long_end[64:72], "little") != size - _LONG_END_BYTES:
            raise ValueError("its directory is not where torch.save writes it")
        start = int.from_bytes(long_end[48:56], "little")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if archive.start_dir != start or [entry.header_offset for entry in entries] != offsets:
            raise ValueError("it has several directories")
    return [entry.file_size for entry in entries]
