"""What ends a batch job, and what a picture of one is refused with."""

from __future__ import annotations

import signal

from app.errors import FusionLensError


class JobRefused(FusionLensError):
    """The job cannot be done as it is asked for. Nothing that exists was changed."""

    exit_status = 2


class JobEnded(FusionLensError):
    """The job has reached one of its limits. The rows that it has written stay."""


class JobInterrupted(FusionLensError):
    """A signal has ended the job. The rows that it has written stay."""

    def __init__(self, number: signal.Signals, when: str) -> None:
        super().__init__(f"{number.name} ended the job {when}; the same command goes on from there.")
        self.exit_status = 128 + number


class MissingFile(FusionLensError):
    """There is no file of this name, or the row of a table names none."""


class UnreadableFile(FusionLensError):
    """The file exists, but its bytes cannot be read."""
