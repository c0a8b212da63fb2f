"""Signals that ask a job to end: it does so between two pictures, in an orderly way."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

from app.batch.refusals import JobInterrupted

Item = TypeVar("Item")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """While this lasts, SIGINT and SIGTERM are noted instead of ending the process. For the main thread alone."""

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def check(self, when: str) -> None:
        """Raises JobInterrupted if a signal has come. `when` says how far the job is."""
        if self.number is not None:
            raise JobInterrupted(self.number, when)

    def checked(self, items: Iterable[Item], when: str) -> Iterator[Item]:
        """The items. Raises JobInterrupted between two of them."""
        for item in items:
            self.check(when)
            yield item

    def listen(self) -> None:
        """Take the signals, also back from a library that has taken them meanwhile."""
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def __enter__(self) -> Stopping:
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = signal.Signals(number)
