"""Predictions kept for a while, so that they can be explained without the picture being sent again."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, Protocol, TypeVar, runtime_checkable

from app.errors import UnknownPrediction
from app.inference.prediction import Prediction
from app.metrics import Metrics

T = TypeVar("T")


@dataclass(frozen=True)
class Receipt:
    """What the caller gets for a stored prediction."""

    prediction_id: str
    expires_at: datetime


@dataclass(frozen=True)
class Usage:
    """How many predictions a store keeps, and what they take."""

    entries: int
    used_bytes: int


@runtime_checkable
class PredictionStore(Protocol):
    """Keeps predictions until they expire, are forgotten, or make room for newer ones."""

    async def put(self, prediction: Prediction, owner: str) -> Receipt:
        """Keep a prediction for its owner under a new id that cannot be guessed.

        Raises StoreUnavailable and EntryTooLarge.
        """
        ...

    async def get(self, prediction_id: str, owner: str) -> Prediction:
        """Raises UnknownPrediction, also where it is another's, StoreUnavailable, and ModelGone."""
        ...

    async def forget(self, prediction_id: str, owner: str) -> None:
        """Raises what `get` raises."""
        ...

    async def check(self) -> None:
        """Raises StoreUnavailable until the store has been reached for the first time."""
        ...

    async def usage(self) -> Usage | None:
        """How full it is, if that is known."""
        ...

    async def close(self) -> None:
        """Let go of what the store holds open."""
        ...


class MemoryStore:
    """A store in this process: bounded in bytes (least recently used go first) and in time.

    A prediction larger than the whole budget is kept as the only one, so that every id given can be used once.
    """

    def __init__(
        self, ttl_s: float, max_bytes: int, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl_s, self._max_bytes, self._metrics, self._clock = ttl_s, max_bytes, metrics, clock
        self._entries: OrderedDict[str, tuple[float, str, Prediction]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used_bytes(self) -> int:
        """What the stored predictions take."""
        return self._bytes

    async def put(self, prediction: Prediction, owner: str) -> Receipt:
        """See `PredictionStore.put`."""
        self._drop_expired()
        receipt = new_receipt(self._ttl_s)
        self._entries[receipt.prediction_id] = (self._clock() + self._ttl_s, owner, prediction)
        self._bytes += prediction.nbytes
        while self._bytes > self._max_bytes and len(self._entries) > 1:
            self._remove(next(iter(self._entries)))
        self._metrics.store_writes.labels("stored").inc()
        return receipt

    async def get(self, prediction_id: str, owner: str) -> Prediction:
        """See `PredictionStore.get`."""
        self._drop_expired()
        _, stored_for, prediction = self._entries.get(prediction_id, (0.0, None, None))
        found = prediction is not None and stored_for == owner
        self._metrics.store_reads.labels("hit" if found else "miss").inc()
        if prediction is None or not found:
            raise unknown_prediction()
        self._entries.move_to_end(prediction_id)
        return prediction

    async def forget(self, prediction_id: str, owner: str) -> None:
        """See `PredictionStore.forget`."""
        await self.get(prediction_id, owner)
        self._remove(prediction_id)

    async def check(self) -> None:
        """See `PredictionStore.check`: it is always there."""

    async def usage(self) -> Usage:
        """See `PredictionStore.usage`."""
        self._drop_expired()
        return Usage(len(self), self._bytes)

    async def close(self) -> None:
        """See `PredictionStore.close`: it holds nothing open."""

    def _drop_expired(self) -> None:
        now = self._clock()
        for prediction_id in [key for key, (expiry, _, _) in self._entries.items() if expiry <= now]:
            self._remove(prediction_id)

    def _remove(self, prediction_id: str) -> None:
        _, _, prediction = self._entries.pop(prediction_id)
        self._bytes -= prediction.nbytes


def new_receipt(ttl_s: float) -> Receipt:
    """A new id of 128 random bits, and when it expires."""
    return Receipt(secrets.token_urlsafe(16), datetime.now(UTC) + timedelta(seconds=ttl_s))


def unknown_prediction() -> UnknownPrediction:
    """The same sentence for an id that never was and for one that is another's."""
    return UnknownPrediction(
        "There is no such prediction: its id is wrong, or it has expired or was forgotten. "
        "Send the picture to /predict again."
    )


class RecentAnswers(Generic[T]):
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

    def get(self, prediction_id: str, asked: str) -> T | None:
        """The answer to what was asked before, if it is still there."""
        if (prediction_id, asked) not in self._entries:
            return None
        self._entries.move_to_end((prediction_id, asked))
        return self._entries[prediction_id, asked][0]

    def put(self, prediction_id: str, asked: str, answer: T, nbytes: int) -> None:
        """Keep an answer. One larger than the whole budget is not kept."""
        self._remove((prediction_id, asked))
        if nbytes > self._max_bytes:
            return
        self._entries[prediction_id, asked] = (answer, nbytes)
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
