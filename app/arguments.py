"""How numbers are written, and types of command-line arguments that say which values they take.

Imports the standard library alone.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

# Numbers as other readers of the same text expect them. Python's own also has `1_000`, and other scripts' digits.
PLAIN_NUMBERS: dict[type, str] = {int: r"-?[0-9]+", float: r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"}


def given_path(text: str) -> Path:
    """The type of an argument that is a path. An empty one would mean the working folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: give a path")
    return Path(text)


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number from `lowest` to `highest`."""

    def parse(text: str) -> int:
        digits = text.strip().removeprefix("-")
        number = int(text) if digits.isascii() and digits.isdecimal() and len(digits) < 20 else None
        if number is None or not lowest <= number <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {lowest} to {highest}")
        return number

    return parse


def positive_number(highest: float) -> Callable[[str], float]:
    """The type of an argument that is a number above 0, up to `highest`."""

    def parse(text: str) -> float:
        number = float(text) if re.fullmatch(PLAIN_NUMBERS[float], text.strip()) else -1.0
        if not 0 < number <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is no number above 0, up to {highest:g}")
        return number

    return parse


def number_between(lowest: float, highest: float) -> Callable[[str], float]:
    """The type of an argument that is a number from `lowest` to `highest`."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not lowest <= number <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {lowest:g} to {highest:g}")
        return number

    return parse
