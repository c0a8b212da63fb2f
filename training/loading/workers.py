"""Loading by worker processes, with a sentence for each way in which they fail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from training.errors import TrainingProblem

_ADVICE = "take fewer (--set workers=1; 0 loads in the training process)"
# What torch and the system say, and what it means. The first match counts.
_REASONS = {
    r"ancdata|Too many open files": (
        f"the workers that load pictures may open too few files: raise the limit (ulimit -n 65536), or {_ADVICE}"
    ),
    r"shared memory|Bus error|</?torch_|shm|No space left": (
        "the workers that load pictures have too little shared memory (/dev/shm): give a container more with "
        f"--shm-size=2g, or {_ADVICE}"
    ),
    r"allocate memory|Unable to allocate": (
        f"the workers that load pictures have too little memory: give the machine more, or {_ADVICE}"
    ),
    r"killed by signal|exited unexpectedly": (
        "a worker that loads pictures was killed, most likely because memory ran out, or shared memory (/dev/shm): "
        f"give the machine more, or a container --shm-size=2g, or {_ADVICE}"
    ),
}


class LoadingError(TrainingProblem, RuntimeError):
    """Workers that died or could not start. The message says what they probably lack."""


def loaded(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield what a loader yields. Raises LoadingError if its workers fail for other reasons than their data."""
    try:
        yield from loader
    except (RuntimeError, OSError, MemoryError) as error:
        text = str(error)
        for pattern, sentence in _REASONS.items():
            if re.search(pattern, text):
                raise LoadingError(f"{sentence} ({text.strip().splitlines()[-1]})") from error
        if isinstance(error, RuntimeError):
            raise
        raise LoadingError(f"the workers that load pictures could not start ({error}): {_ADVICE}") from error
