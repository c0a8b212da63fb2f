"""A store in the memory of this process."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from app.predicting.prediction import Prediction
from app.serving.stores.protocol import Receipt, Usage, new_receipt, unknown_prediction
from app.telemetry.metrics import Metrics


class MemoryStore:
    """A `PredictionStore` bounded in bytes and in time.

    The owner who has most loses the least recently used predictions first. A prediction larger than the whole budget is
    stored as the only one, so that every id can be used at least once.
    """

    def __init__(
        self, ttl_s: float, max_bytes: int, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl_s, self._max_bytes, self._metrics, self._clock = ttl_s, max_bytes, metrics, clock
        self._entries: OrderedDict[str, tuple[float, str, Prediction]] = OrderedDict()
        self._bytes: Counter[str] = Counter()  # by owner

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used_bytes(self) -> int:
        """The approximate memory of all stored predictions."""
        return self._bytes.total()

    async def put(self, prediction: Prediction, owner: str) -> Receipt:
        """See `PredictionStore.put`."""
        self._drop_expired()
        receipt = new_receipt(self._ttl_s)
        self._entries[receipt.prediction_id] = (self._clock() + self._ttl_s, owner, prediction)
        self._bytes[owner] += prediction.nbytes
        while self.used_bytes > self._max_bytes and len(self._entries) > 1:
            older = list(self._entries.items())[:-1]  # not the new one: every id can be used at least once
            most = max((of for _, (_, of, _) in older), key=lambda one: self._bytes[one])
            self._remove(next(key for key, (_, of, _) in older if of == most))
        self._metrics.store_writes.labels("stored").inc()
        return receipt

    async def get(self, prediction_id: str, owner: str) -> Prediction:
        """See `PredictionStore.get`."""
        self._drop_expired()
        _, stored_owner, prediction = self._entries.get(prediction_id, (0.0, None, None))
        is_hit = prediction is not None and stored_owner == owner
        self._metrics.store_reads.labels("hit" if is_hit else "miss").inc()
        if prediction is None or not is_hit:
            raise unknown_prediction()
        self._entries.move_to_end(prediction_id)
        return prediction

    async def forget(self, prediction_id: str, owner: str) -> None:
        """See `PredictionStore.forget`."""
        await self.get(prediction_id, owner)
        self._remove(prediction_id)

    async def check(self) -> None:
        """See `PredictionStore.check`: this store is always available."""

    async def usage(self) -> Usage:
        """See `PredictionStore.usage`."""
        self._drop_expired()
        return Usage(len(self), self.used_bytes)

    async def close(self) -> None:
        """See `PredictionStore.close`: this store has no connections."""

    def _drop_expired(self) -> None:
        now = self._clock()
        for prediction_id in [key for key, (expiry, _, _) in self._entries.items() if expiry <= now]:
            self._remove(prediction_id)

    def _remove(self, prediction_id: str) -> None:
        _, owner, prediction = self._entries.pop(prediction_id)
        self._bytes[owner] -= prediction.nbytes
        if not self._bytes[owner]:
            del self._bytes[owner]
