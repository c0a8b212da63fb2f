"""Types of command-line arguments that say which values they take. Imports the standard library alone."""

from __future__ import annotations

import argparse
from collections.abc import Callable


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
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not 0 < number <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is no number above 0, up to {highest:g}")
        return number

    return parse
