"""The use cases of the service: predictor, lanes and store put together, asynchronous and without HTTP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from app.inference.bundle import read_bundle
from app.inference.engine import load_engine
from app.inference.predictor import Answer, Prediction, Predictor, Upload
from app.inference.scheduler import Lane
from app.inference.store import MemoryStore, PredictionStore
from app.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Predicted:
    """A new prediction, what it says, and where its time went, in ms."""

    prediction: Prediction
    answer: Answer
    upload: Upload
    timings_ms: dict[str, float]


class Service:
    """One loaded bundle, ready to answer. Pictures are decoded beside the model; explanations have their own lane."""

    def __init__(self, predictor: Predictor, store: PredictionStore, settings: Settings) -> None:
        self.predictor, self.store = predictor, store
        self._decode_lane = Lane(settings.decoders, settings.queue_limit, settings.deadline_s)
        self._trunk_lane = Lane(1, settings.queue_limit, settings.deadline_s)
        self._explain_lane = Lane(settings.decoders, settings.queue_limit, settings.deadline_s)

    @classmethod
    def from_settings(cls, settings: Settings) -> Service:
        """Load, verify and warm up what the settings name. Raises BundleError and EngineError."""
        predictor = load_predictor(settings)
        predictor.warm_up()
        return cls(predictor, MemoryStore(settings.store_ttl_s, settings.store_max_bytes), settings)

    async def predict(self, data: bytes) -> Predicted:
        """Decode and classify an upload; nothing is kept."""
        opened = await self._decode_lane.run(self.predictor.open, data)
        ran = await self._trunk_lane.run(self.predictor.predict, opened.result)
        prediction, spent_ms = ran.result
        timings_ms = {"decode": opened.ran_ms, "queue": opened.waited_ms + ran.waited_ms, **spent_ms}
        return Predicted(prediction, self.predictor.answer(prediction), opened.result, timings_ms)

    async def explain(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the making of an explanation in its own lane."""
        return (await self._explain_lane.run(work, *args, **kwargs)).result


def load_predictor(settings: Settings) -> Predictor:
    """The predictor of the bundle that the settings name, verified. Raises BundleError and EngineError."""
    bundle = read_bundle(settings.bundle, settings.bundle_sha256)
    return Predictor(bundle, load_engine(bundle, settings.engine), settings.limits, settings.preview_side_px)
