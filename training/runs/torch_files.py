"""Reading of files that `torch.save` wrote, and what no weights may be."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_ARCHIVE = b"PK"  # how a zip archive begins


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
        reader = torch._C.PyTorchFileReader(file)
        names = reader.get_all_records()
        sizes = [reader.get_record_size(name) for name in names]
    except RuntimeError as error:
        raise ValueError(f"it is a damaged archive: {str(error).splitlines()[0]}") from error
    for name in names:
        if re.fullmatch(r"(?is)data/.*[^0-9].*", name):
            raise ValueError(f"it has a storage {name[:200]!r}, as torch.save never names one")
    return sum(sizes)
