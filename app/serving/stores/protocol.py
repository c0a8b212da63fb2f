"""What a store of predictions does: keep them for a while, so that they are explained without the picture."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable

from app.errors import UnknownPrediction
from app.predicting.prediction import Prediction


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


def new_receipt(ttl_s: float) -> Receipt:
    """A new id of 128 random bits, and when it expires."""
    return Receipt(secrets.token_urlsafe(16), datetime.now(UTC) + timedelta(seconds=ttl_s))


def unknown_prediction() -> UnknownPrediction:
    """The same sentence for an id that never was and for one that is another's."""
    return UnknownPrediction(
        "There is no such prediction: its id is wrong, or it has expired or was forgotten. "
        "Send the picture to /predict again."
    )
