"""The use cases of the service: predictor, lanes and store put together, asynchronous and without HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from app.bundles.reader import Bundle, read_bundle
from app.engines.load import load_engine
from app.explain.fine import MOVES
from app.predicting.answer import Answer
from app.predicting.prediction import Prediction, Upload
from app.predicting.predictor import Predictor
from app.serving.explanation_cache import RecentAnswers
from app.serving.queue import Lane, Ran, each
from app.serving.stores.protocol import PredictionStore
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.telemetry.traces import Trace

T = TypeVar("T")


@dataclass(frozen=True)
class Predicted:
    """A new prediction, what it says, and where its time went, in ms."""

    prediction: Prediction
    answer: Answer
    upload: Upload
    timings_ms: dict[str, float]


class Service:
    """One loaded bundle, ready to answer.

    Pictures are decoded beside the model, and explanations of stored predictions have a lane of their own: a few
    milliseconds of work need not wait behind a backbone's. Those that go through the Swin again have another.
    """

    def __init__(
        self, predictor: Predictor, store: PredictionStore, settings: Settings, metrics: Metrics, trace: Trace
    ) -> None:
        self.predictor, self.store, self.metrics, self._trace = predictor, store, metrics, trace
        self._deadline_s = settings.deadline_s
        limit, engine = settings.queue_limit, predictor.engine
        gather_s = settings.gather_ms / 1e3 if engine.batch > 1 else 0.0
        self._decoding: Lane[Callable[[], Any], Any] = Lane(each, settings.decoders, limit)
        self._predicting = Lane(partial(_predict, predictor, metrics), engine.passes, limit, engine.batch, gather_s)
        self._through_swin: Lane[Callable[[], Any], Any] = Lane(each, 1, limit)
        self._explaining: Lane[Callable[[], Any], Any] = Lane(each, settings.decoders, limit)
        self._being_decoded = 0
        self.answers: RecentAnswers[tuple[bytes, dict[str, str]]] = RecentAnswers(settings.answers_max_bytes)

    @property
    def waiting(self) -> dict[str, int]:
        """How much waits for its turn, by lane."""
        lanes: dict[str, Lane[Any, Any]] = {"decode": self._decoding, "predict": self._predicting}
        lanes |= {"explain": self._explaining, "swin": self._through_swin}
        return {name: lane.waiting for name, lane in lanes.items()}

    def deadline(self) -> float:
        """By when, on the clock of `time.monotonic`, a request that comes now must be answered."""
        return time.monotonic() + self._deadline_s

    async def predict(self, data: bytes, until: float, explained: bool = False) -> Predicted:
        """Decode and classify an upload, with `explained` in one pass with what explains the answer; nothing is kept.

        Raises Overloaded, before anything is decoded, and DeadlineExceeded.
        """
        self.admit(until)
        self._being_decoded += 1
        try:
            opened = await self._decoding.run(partial(self.predictor.open, data), until)
        finally:
            self._being_decoded -= 1
        self._ran("decode", opened, {"decode": opened.ran_ms})
        self.metrics.stage_s.labels("decode").observe(opened.ran_ms / 1e3)
        upload: Upload = opened.result
        ran = await self._predicting.run((upload, explained), until)
        prediction, spent_ms = ran.result
        self._ran("predict", ran, spent_ms)
        answer = self.predictor.answer(prediction)
        self.metrics.predictions.labels(answer.label).inc()
        self.metrics.confidence.observe(max(answer.probabilities.values()))
        timings_ms = {"decode": opened.ran_ms, "queue": opened.waited_ms + ran.waited_ms, **spent_ms}
        return Predicted(prediction, answer, upload, timings_ms)

    def admit(self, until: float) -> None:
        """Refuse at once a prediction that would not be made in time, or finds a queue full. Raises Overloaded."""
        self._decoding.admit(until)
        self._predicting.admit(until, coming=self._being_decoded)

    def _ran(self, lane: str, ran: Ran[Any], stages_ms: dict[str, float]) -> None:
        self.metrics.wait_s.labels(lane).observe(ran.waited_ms / 1e3)
        self._trace({f"wait: {lane}": ran.waited_ms, **stages_ms})

    async def moved(self, prediction: Prediction, until: float) -> list[Prediction]:
        """The predictions of the picture's moved views, for fine detail. Raises Overloaded and DeadlineExceeded."""
        self._predicting.admit(until, coming=len(MOVES) - 2 + self._being_decoded)
        uploads = self.predictor.moved_uploads(prediction)
        ran = await asyncio.gather(*(self._predicting.run((upload, True), until) for upload in uploads))
        return [one.result[0] for one in ran]

    async def explain(self, work: Callable[[], T], until: float, through_swin: bool = False) -> T:
        """Run the making of an explanation in the lane for it. Raises Overloaded and DeadlineExceeded."""
        lane = self._through_swin if through_swin else self._explaining
        lane.admit(until)
        ran = await lane.run(work, until)
        self._ran("swin" if through_swin else "explain", ran, {"explain": ran.ran_ms})
        result: T = ran.result
        return result


def _predict(
    predictor: Predictor, metrics: Metrics, asked: Sequence[tuple[Upload, bool]]
) -> list[tuple[Prediction, dict[str, float]]]:
    """The work of the lane for predictions. No method, so that a service that was replaced goes at once."""
    made = predictor.predict_batch([upload for upload, _ in asked], any(explained for _, explained in asked))
    metrics.batch.observe(len(asked))
    for stage, spent_ms in made[0][1].items():  # of the whole pass, which each of its pictures is told
        metrics.stage_s.labels(stage).observe(spent_ms / 1e3)
    return made


def load_predictor(settings: Settings) -> Predictor:
    """The predictor of the bundle that the settings name, verified. Raises BundleError and EngineError."""
    return predictor_of(read_bundle(settings.bundle, settings.bundle_sha256), settings)


def predictor_of(bundle: Bundle, settings: Settings) -> Predictor:
    """The predictor of a bundle that was verified. Raises BundleError and EngineError."""
    engine = load_engine(bundle, settings.engine, settings.threads, settings.cache)
    return Predictor(bundle.without_weights(), engine, settings.limits, settings.preview_side_px)
