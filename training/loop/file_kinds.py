"""Kinds of files that people give as weights and that hold none, told by how they begin and by what they have."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

_BEGINNING_BYTES = 1_000_000  # of a text that names its kind late, as the index of a sharded model may
_KINDS: tuple[tuple[bytes, str], ...] = (
    (rb"$", "is empty: get it again"),
    (
        rb"version https://git-lfs",
        "is a pointer of Git LFS, in place of the weights: fetch them with git lfs pull, or download the file itself",
    ),
    (
        rb"(?is)\s*\{.*\"weight_map\"",
        "is the index of weights in several files: load these, and save all of their tensors in one safetensors file",
    ),
    (rb"\s*[{\[]\s*[\"{\[\]}\d]", "is a text in JSON, which holds no weights: give the file that does"),
    (rb"\s*<", "is a web page or another text in tags, in place of the weights: download the file itself"),
    (rb"\x93NUMPY", "is an array of numpy: save its arrays, named, in a safetensors file"),
    (rb"\x89HDF\r\n", "is a file in HDF5, as Keras writes it: save its arrays by timm's names in a safetensors file"),
    (rb"GGUF", "is a file in GGUF: save its tensors by timm's names in a safetensors file"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf", "is compressed: unpack it, and give the file in it"),
    (rb"(?s).{257}ustar", "is an archive (tar): unpack it, and give the file in it"),
)
_OF_NUMPY = "is an archive of numpy's arrays (npz): save its arrays, named, in a safetensors file"
_OF_SCRIPT = "is a program (TorchScript), not weights alone: load it with torch.jit.load, and save its state_dict()"
_OF_FILES = "is an archive of files (zip): unpack it, and give the file in it"


def other_kind(path: Path) -> str | None:
    """What a file is that is neither a safetensors file nor one of torch, and what to do. None if nothing tells."""
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING_BYTES)
    if beginning.startswith(b"PK"):
        return _kind_of_archive(path, beginning)
    return next((sentence for pattern, sentence in _KINDS if re.match(pattern, beginning)), None)


def _kind_of_archive(path: Path, beginning: bytes) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return _OF_NUMPY
    if any("/code/" in name for name in names):
        return _OF_SCRIPT
    # An archive may have two lists of its entries, of which torch reads the other one.
    is_of_torch = b"/data.pkl" in beginning or any(name.endswith("data.pkl") for name in names)
    return None if is_of_torch else _OF_FILES
