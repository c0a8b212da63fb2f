"""Checkpoints that are whole or not there: written aside, fsynced, renamed; the name holds the content's digest."""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any

import torch

_NAME = re.compile(r"(\d{8})-([0-9a-f]{16})\.pt")


def save_checkpoint(folder: Path, update: int, state: dict[str, Any], keep: int) -> None:
    """Write `state` as the checkpoint of `update`, and remove all but the newest `keep`.

    Raises OSError where it cannot be written; what was there before is then still there.
    """
    content = io.BytesIO()
    torch.save(state, content)
    data = content.getbuffer()
    write_atomically(folder / f"{update:08d}-{hashlib.sha256(data).hexdigest()[:16]}.pt", data)
    for old in _newest_first(folder)[keep:]:
        old.unlink()


def newest_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, list[Path]]:
    """The newest whole checkpoint's state (None if there is none), and the torn ones that were passed over."""
    torn: list[Path] = []
    for path in _newest_first(folder):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest()[:16] == path.stem.partition("-")[2]:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), torn
        torn.append(path)
    return None, torn


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file that appears whole or not at all, also after a power cut. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _newest_first(folder: Path) -> list[Path]:
    checkpoints = [path for path in folder.glob("*.pt") if _NAME.fullmatch(path.name)]
    return sorted(checkpoints, reverse=True)
