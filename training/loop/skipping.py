"""The pictures that a run could not read: counted, recorded, and limited in number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from training.data.samples import DataError, Sample


def newly_skipped(unreadable: Mapping[Sample, str], skipped: list[str], allowed: int) -> Iterator[tuple[Sample, str]]:
    """Add the paths of unreadable pictures to `skipped`, and yield those that are new, each with its reason.

    Raises DataError if there are more than `allowed`.
    """
    for sample, reason in unreadable.items():
        if str(sample.path) not in skipped:
            skipped.append(str(sample.path))
            if len(skipped) > allowed:
                raise DataError(_with_advice(reason, len(skipped)))
            yield sample, reason


def next_batch(batches: Iterator[Any]) -> Any:
    """Return the next batch. Of a DataError with a worker's traceback, only the sentence is kept."""
    try:
        return next(batches)
    except DataError as error:
        reason = str(error).strip().splitlines()[-1].removeprefix(f"{DataError.__module__}.{DataError.__name__}: ")
        raise DataError(_with_advice(reason, 1)) from error


def _with_advice(reason: str, skipped: int) -> str:
    return (
        f"{reason.rstrip('.')}: put the picture back, or go on without it: --skip-unreadable {skipped}. "
        "fit … --resume continues the run"
    )
