"""How many pictures of a job may be left without an answer. Imports the standard library alone."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from app.arguments import number_between, whole_number


@dataclass(frozen=True)
class FailureLimit:
    """A number of pictures, or a share of all pictures in percent. `text` is how the user wrote it."""

    text: str
    pictures: int | None = None
    percent: float | None = None

    def most(self, total: int) -> int:
        """How many of `total` pictures may be left without an answer."""
        if self.pictures is not None:
            return self.pictures
        assert self.percent is not None
        return math.floor(total * self.percent / 100 + 1e-9)


def failure_limit(text: str) -> FailureLimit:
    """The type of an argument such as `20` or `5%`."""
    try:
        if text.strip().endswith("%"):
            return FailureLimit(text.strip(), percent=number_between(0.0, 100.0)(text.strip()[:-1]))
        return FailureLimit(text.strip(), pictures=whole_number(0, 10**12)(text))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of pictures such as 20, or share such as 5%"
        ) from error
