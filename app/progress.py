"""How far a long loop is: a bar in a terminal, and elsewhere, as in a job's log, a line a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

from tqdm import tqdm

INTERVAL_S = 60.0  # between two lines where there is no terminal

Item = TypeVar("Item")


@runtime_checkable
class Stream(Protocol):
    """Where progress is written: standard error, or any text stream."""

    def write(self, text: str, /) -> object:
        """Write a text."""

    def flush(self) -> None:
        """Write what is pending."""

    def isatty(self) -> bool:
        """Whether this is a terminal."""


class Steps:
    """Counts the steps of a loop and shows them on `stream`, or nowhere if it is None.

    `unit` is the plural of what is counted, and `done` the number of steps that an earlier process made. Nothing is
    written about a loop that takes less than a minute outside a terminal. Rate and time left are those of this process.
    """

    def __init__(
        self,
        name: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        stream: Stream | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.total, self.unit, self.done = name, total, unit, done
        self._first, self._stream, self._clock = done, stream, clock
        self._started_s = self._told_s = clock()
        self._bar: tqdm[Any] | None = None
        if stream is not None and stream.isatty():
            self._bar = tqdm(total=total, initial=done, desc=name, unit=f" {unit}", leave=False, file=stream)

    def update(self, steps: int = 1) -> None:
        """Count further steps, and show them if it is time to."""
        self.done += steps
        if self._bar is not None:
            self._bar.update(steps)
        elif self._stream is not None and self._clock() - self._told_s >= INTERVAL_S:
            self._told_s = self._clock()
            self._stream.write(self._line() + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _line(self) -> str:
        line = f"{self.name}: {self.done} of {self.total} {self.unit}"
        elapsed_s, made = self._clock() - self._started_s, self.done - self._first
        if not made or not elapsed_s:
            return line
        left = _duration(elapsed_s / made * max(0, self.total - self.done))
        return f"{line}, {made / elapsed_s:.3g} {self.unit}/s, about {left} left"


def tracked(items: Iterable[Item], name: str, unit: str, total: int) -> Iterator[Item]:
    """Yield the items, and show on standard error how many have been used of `total`."""
    with Steps(name, total, unit, stream=sys.stderr) as steps:
        for item in items:
            yield item
            steps.update()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
