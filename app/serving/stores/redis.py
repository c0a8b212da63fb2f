"""A store in Redis, which several replicas share: any of them can explain what another one predicted.

An entry has a header of four bytes that name the format, an HMAC-SHA256 over format, id and payload, and the payload, a
safetensors blob. No payload is parsed before its HMAC has been verified. So an attacker who can write to Redis cannot
make the service decode foreign data, or pass one prediction off as another.

The payload has the time when the entry expires, by the clock of Redis. A deleted entry leaves a tombstone for as long.
So a copy that someone writes back is not read: after its time never, and before it only if they remove the tombstone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
from dataclasses import asdict
from functools import partial
from typing import cast

import anyio.to_thread
import numpy as np
import safetensors.numpy

from app.errors import EntryTooLarge, ModelGone, StoreUnavailable
from app.models.feature_maps import BRANCHES, FeatureMaps
from app.pictures.prepare import Frame
from app.predicting.prediction import Prediction, Upload
from app.serving.stores.protocol import Receipt, Usage, new_receipt, unknown_prediction
from app.serving.stores.redis_client import SharedRedis
from app.telemetry.metrics import Metrics

FORMAT = b"FLP3"
_PREFIX, _TOMBSTONE = "fusionlens:prediction:", "fusionlens:deleted:"
_MAC_START, _MAC_END = len(FORMAT), len(FORMAT) + hashlib.sha256().digest_size
logger = logging.getLogger("fusionlens.store")


class RedisStore:
    """A `PredictionStore` in Redis, which drops expired entries itself."""

    def __init__(
        self, shared: SharedRedis, secret: bytes, ttl_s: float, max_entry_bytes: int, metrics: Metrics
    ) -> None:
        self._shared, self._redis, self._secret = shared, shared.client, secret
        self._ttl_s, self._max_entry_bytes, self._metrics = ttl_s, max_entry_bytes, metrics
        self._ttl_ms = max(1, round(ttl_s * 1e3))

    async def put(self, prediction: Prediction, owner: str) -> Receipt:
        """See `PredictionStore.put`."""
        receipt = new_receipt(self._ttl_s)
        try:
            expires_s = math.ceil(await self._now_s() + self._ttl_s)
        except StoreUnavailable:
            self._metrics.store_writes.labels("failed").inc()
            raise
        to_entry = partial(self._entry, receipt.prediction_id, prediction, owner, expires_s)
        entry = await anyio.to_thread.run_sync(to_entry)
        if len(entry) > self._max_entry_bytes:
            self._metrics.store_writes.labels("too_large").inc()
            raise EntryTooLarge(f"it takes {len(entry):,} bytes, more than the limit of {self._max_entry_bytes:,}")
        try:
            await self._shared.execute(lambda: self._redis.set(_PREFIX + receipt.prediction_id, entry, px=self._ttl_ms))
        except StoreUnavailable:
            self._metrics.store_writes.labels("failed").inc()
            raise
        self._metrics.store_writes.labels("stored").inc()
        return receipt

    async def get(self, prediction_id: str, owner: str) -> Prediction:
        """See `PredictionStore.get`. Raises StoreUnavailable for an entry that this service did not write."""
        outcome = "failed"
        try:
            # Limited, so that an attacker who can write to Redis cannot fill the memory of this process.
            reading = self._redis.pipeline(transaction=False)
            reading.getrange(_PREFIX + prediction_id, 0, self._max_entry_bytes)
            reading.exists(_TOMBSTONE + prediction_id)
            reading.time()
            entry, is_deleted, now = await self._shared.execute(reading.execute)
            if not entry or is_deleted:
                outcome = "miss"
                raise unknown_prediction()
            outcome = "forged"
            stored_format, payload = await anyio.to_thread.run_sync(
                verify, self._secret, prediction_id, cast(bytes, entry)
            )
            outcome = "miss"
            if stored_format != FORMAT:
                raise ModelGone("Another version of this service made this prediction: send the picture again.")
            prediction, stored_owner, expires_s = await anyio.to_thread.run_sync(from_bytes, payload)
            if stored_owner != owner or expires_s < _seconds(now):
                raise unknown_prediction()
            outcome = "hit"
            return prediction
        finally:
            self._metrics.store_reads.labels(outcome).inc()

    async def forget(self, prediction_id: str, owner: str) -> None:
        """See `PredictionStore.forget`."""
        await self.get(prediction_id, owner)
        deleting = self._redis.pipeline(transaction=True)
        deleting.set(_TOMBSTONE + prediction_id, 1, px=self._ttl_ms)
        deleting.delete(_PREFIX + prediction_id)
        await self._shared.execute(deleting.execute)

    async def check(self) -> None:
        """See `PredictionStore.check`."""
        if not self._shared.reached:
            await self._shared.execute(self._redis.ping)

    async def usage(self) -> Usage | None:
        """See `PredictionStore.usage`: that of the whole database, which all replicas share."""
        try:
            entries = await self._shared.observe(self._redis.dbsize)
            memory = await self._shared.observe(lambda: self._redis.info("memory"))
        except StoreUnavailable:
            return None
        return Usage(int(entries), int(memory["used_memory"]))

    async def close(self) -> None:
        """See `PredictionStore.close`."""
        await self._shared.close()

    async def _now_s(self) -> float:
        return _seconds(await self._shared.execute(self._redis.time))

    def _entry(self, prediction_id: str, prediction: Prediction, owner: str, expires_s: int) -> bytes:
        return sign(self._secret, prediction_id, to_bytes(prediction, owner, expires_s))


def _seconds(time: tuple[int, int]) -> float:
    """The answer of the command TIME, seconds and microseconds, in seconds since 1970."""
    return time[0] + time[1] / 1e6


def sign(secret: bytes, prediction_id: str, payload: bytes) -> bytes:
    """Build an entry from a payload: format, HMAC, payload."""
    return FORMAT + _mac(secret, FORMAT, prediction_id, payload) + payload


def verify(secret: bytes, prediction_id: str, entry: bytes) -> tuple[bytes, bytes]:
    """Verify the HMAC of an entry and return its format and payload. Raises StoreUnavailable if it does not match."""
    stored_format, mac, payload = entry[:_MAC_START], entry[_MAC_START:_MAC_END], entry[_MAC_END:]
    if not hmac.compare_digest(mac, _mac(secret, stored_format, prediction_id, payload)):
        logger.error("An entry in Redis was written by something else, or with another redis_secret; it is not read.")
        raise StoreUnavailable("The entry stored under this id cannot be trusted. Send the picture to /predict again.")
    return stored_format, payload


def _mac(secret: bytes, stored_format: bytes, prediction_id: str, payload: bytes) -> bytes:
    name = prediction_id.encode()
    mac = hmac.new(secret, stored_format + len(name).to_bytes(4, "big") + name, hashlib.sha256)
    mac.update(payload)
    return mac.digest()


def to_bytes(prediction: Prediction, owner: str, expires_s: int) -> bytes:
    """Serialise a prediction, its owner and when it expires, in seconds since 1970, as a safetensors blob."""
    upload = prediction.upload
    record = {
        "owner": owner,
        "expires_s": expires_s,
        "bundle_sha256": prediction.bundle_sha256,
        "width_px": upload.width_px,
        "height_px": upload.height_px,
        "format": upload.format,
        "notes": upload.notes,
        "frame": asdict(upload.frame),
    }
    arrays = {"logits": prediction.logits, "image": upload.image}
    arrays |= {f"maps.{branch}": values for branch, values in prediction.maps.items()}
    arrays |= {f"gradient.{branch}": values for branch, values in (prediction.gradient or {}).items()}
    arrays["preview_jpeg"] = np.frombuffer(upload.preview_jpeg, np.uint8)
    arrays["record"] = np.frombuffer(json.dumps(record).encode(), np.uint8)
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def from_bytes(payload: bytes) -> tuple[Prediction, str, int]:
    """The prediction, its owner and the time that were given to `to_bytes`."""
    arrays = safetensors.numpy.load(payload)
    record = json.loads(arrays["record"].tobytes())
    upload = Upload(
        record["width_px"],
        record["height_px"],
        record["format"],
        tuple(record["notes"]),
        arrays["image"],
        arrays["preview_jpeg"].tobytes(),
        Frame(**record["frame"]),
    )
    maps, gradient = (
        FeatureMaps({branch: arrays[f"{kind}.{branch}"] for branch in BRANCHES if f"{kind}.{branch}" in arrays})
        for kind in ("maps", "gradient")
    )
    prediction = Prediction(record["bundle_sha256"], arrays["logits"], maps, upload, gradient or None)
    return prediction, record["owner"], record["expires_s"]
