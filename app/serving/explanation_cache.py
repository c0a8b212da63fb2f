"""A cache of encoded explanations, so that a repeated request is answered without computing it again."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping

# The body of an answer and its headers.
CachedAnswer = tuple[bytes, Mapping[str, str]]
_ENTRY_BYTES = (
    400  # of the dictionaries of an entry and the key itself, as tests/serving/test_explanation_cache.py shows
)


class ExplanationCache:
    """Answers about stored predictions, bounded in bytes. The least recently used answers are dropped first.

    The cache does not check access: the store decides whether a prediction still exists and who may ask for it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._entries: OrderedDict[tuple[str, str], tuple[CachedAnswer, int]] = OrderedDict()

    @property
    def used_bytes(self) -> int:
        """The memory of all cached answers, with their headers and keys."""
        return self._bytes

    def get(self, prediction_id: str, etag: str) -> CachedAnswer | None:
        """The cached answer of a prediction with this ETag, if there is one."""
        if (prediction_id, etag) not in self._entries:
            return None
        self._entries.move_to_end((prediction_id, etag))
        return self._entries[prediction_id, etag][0]

    def put(self, prediction_id: str, etag: str, answer: CachedAnswer) -> None:
        """Cache an answer. One that is larger than the whole budget is not cached."""
        key = (prediction_id, etag)
        self._remove(key)
        nbytes = _memory_of(key, answer)
        if nbytes > self._max_bytes:
            return
        self._entries[key] = (answer, nbytes)
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


def _memory_of(key: tuple[str, str], answer: CachedAnswer) -> int:
    body, headers = answer
    parts: list[object] = [body, headers, *headers.keys(), *headers.values(), *key]
    return sum(map(sys.getsizeof, parts)) + _ENTRY_BYTES
