"""Checkpoints, written atomically and verified when read.

A file is written under a temporary name, synced to disk and renamed. Its name has a digest of its content.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import torch

from training.output import write_atomically
from training.runs.torch_files import load_torch_file

_NAME = re.compile(r"(\d{8})-([0-9a-f]{16})\.pt")


def save_checkpoint(folder: Path, update: int, state: dict[str, Any], keep: int) -> None:
    """Write `state` as the checkpoint after `update` updates, and remove all but the newest `keep` checkpoints.

    Raises OSError if it cannot be written. Older checkpoints are kept in that case.
    """
    content = io.BytesIO()
    torch.save(state, content)
    data = content.getbuffer()
    write_atomically(folder / f"{update:08d}-{hashlib.sha256(data).hexdigest()[:16]}.pt", data)
    for old in _newest_first(folder)[keep:]:
        old.unlink()


def newest_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, list[Path]]:
    """Return the state of the newest intact checkpoint, or None, and the paths of newer ones that are damaged."""
    damaged: list[Path] = []
    for path in _newest_first(folder):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest()[:16] == path.stem.partition("-")[2]:
            return load_torch_file(io.BytesIO(data)), damaged
        damaged.append(path)
    return None, damaged


def _newest_first(folder: Path) -> list[Path]:
    checkpoints = [path for path in folder.glob("*.pt") if _NAME.fullmatch(path.name)]
    return sorted(checkpoints, reverse=True)
