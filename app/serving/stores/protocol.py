"""The protocol of a store, which keeps predictions for a while so that they can be explained without the picture."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable

from app.errors import UnknownPrediction
from app.predicting.prediction import Prediction


@dataclass(frozen=True)
class Receipt:
    """The id of a stored prediction, and when it expires."""

    prediction_id: str
    expires_at: datetime


@dataclass(frozen=True)
class Usage:
    """The number of stored predictions, and the memory that they use."""

    entries: int
    used_bytes: int


@runtime_checkable
class PredictionStore(Protocol):
    """Stores predictions until they expire, are deleted, or are dropped to make room for newer ones."""

    async def put(self, prediction: Prediction, owner: str) -> Receipt:
        """Store a prediction of `owner` under a new id that cannot be guessed.

        Raises StoreUnavailable and EntryTooLarge.
        """
        ...

    async def get(self, prediction_id: str, owner: str) -> Prediction:
        """Read a prediction. Raises UnknownPrediction, also if it has another owner, StoreUnavailable and ModelGone."""
        ...

    async def forget(self, prediction_id: str, owner: str) -> None:
        """Delete a prediction. Raises what `get` raises."""
        ...

    async def check(self) -> None:
        """Raises StoreUnavailable until the store has been reached for the first time."""
        ...

    async def usage(self) -> Usage | None:
        """The use of the store, or None if it cannot be reached."""
        ...

    async def close(self) -> None:
        """Close the connections of the store."""
        ...


def new_receipt(ttl_s: float) -> Receipt:
    """A new id of 128 random bits that expires in `ttl_s`."""
    return Receipt(secrets.token_urlsafe(16), datetime.now(UTC) + timedelta(seconds=ttl_s))


def unknown_prediction() -> UnknownPrediction:
    """The error for an unknown id. An id of another owner gets the same one, so that it reveals nothing."""
    return UnknownPrediction(
        "There is no such prediction: its id is wrong, or it has expired or was deleted. "
        "Send the picture to /predict again."
    )
