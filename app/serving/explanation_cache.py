"""Explanations that were given, kept to be given again without being computed."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class ExplanationCache(Generic[T]):
    """Answers about predictions, bounded in bytes: the least recently used go first.

    Whether a prediction may still be asked about is for the store to say.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._entries: OrderedDict[tuple[str, str], tuple[T, int]] = OrderedDict()

    @property
    def used_bytes(self) -> int:
        """What the answers take."""
        return self._bytes

    def get(self, prediction_id: str, etag: str) -> T | None:
        """The answer to what was asked before, if it is still there."""
        if (prediction_id, etag) not in self._entries:
            return None
        self._entries.move_to_end((prediction_id, etag))
        return self._entries[prediction_id, etag][0]

    def put(self, prediction_id: str, etag: str, answer: T, nbytes: int) -> None:
        """Keep an answer. One larger than the whole budget is not kept."""
        self._remove((prediction_id, etag))
        if nbytes > self._max_bytes:
            return
        self._entries[prediction_id, etag] = (answer, nbytes)
        self._bytes += nbytes
        while self._bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def forget(self, prediction_id: str) -> None:
        """Drop all answers about a prediction."""
        for key in [key for key in self._entries if key[0] == prediction_id]:
            self._remove(key)

    def _remove(self, key: tuple[str, str]) -> None:
        _, nbytes = self._entries.pop(key, (None, 0))
        self._bytes -= nbytes
