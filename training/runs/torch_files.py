"""Reading of files that `torch.save` wrote."""

from __future__ import annotations

import io
import os
import zipfile
from typing import Any

import torch


def load_torch_file(file: io.BytesIO | io.BufferedReader) -> Any:
    """The tensors and plain values in a file, on the CPU. Nothing else is unpickled.

    Raises ValueError if the file would unpack to more than it has: `torch.save` does not compress, so a small file that
    takes much memory is meant to. Raises what `torch.load` raises.
    """
    size = file.seek(0, os.SEEK_END)
    if zipfile.is_zipfile(file):
        try:
            unpacked = sum(entry.file_size for entry in zipfile.ZipFile(file).infolist())
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise ValueError(f"it is a damaged archive: {error}") from error
        if unpacked > size:
            raise ValueError(f"it has {size:,} bytes, but would unpack to {unpacked:,}")
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)
