"""The service without HTTP, asynchronous: a predictor with its work queues, the store and the explanation cache."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread

from app.cases.index import Case
from app.errors import DeadlineExceeded
from app.explain.fine import MOVES
from app.predicting.answer import Answer
from app.predicting.explanation import Explanation
from app.predicting.prediction import Prediction, Upload
from app.predicting.predictor import Predictor
from app.predicting.request import AcceptedRequest
from app.serving.decoders import Decoders
from app.serving.explanation_cache import ExplanationCache
from app.serving.queue import TimedResult, WorkQueue, in_threads, run_calls
from app.serving.stores.protocol import PredictionStore
from app.telemetry.metrics import Metrics
from app.telemetry.traces import Trace
from app.trust.assessment import Assessment

T = TypeVar("T")
Predictions = list[tuple[Prediction, dict[str, float]]]


@dataclass(frozen=True)
class ServiceOptions:
    """How much work may wait, for how long, and how much of it runs at once.

    `deadline_s` is the time limit for an answer. `queue_limit` is the number of requests that may wait in each queue.
    `gather_s` is how long a picture waits for others to form a batch on a GPU. `explainers` is the number of threads
    that compute and draw explanations for one user; there is one more for others.
    """

    deadline_s: float
    queue_limit: int
    gather_s: float
    explainers: int
    explanation_cache_bytes: int


@dataclass(frozen=True)
class PredictionResult:
    """A new prediction, its answer, and the durations of the stages."""

    prediction: Prediction
    answer: Answer
    upload: Upload
    timings_ms: dict[str, float]


class Service:
    """Predicts and explains with one loaded bundle.

    There is one work queue for predictions, and two for explanations. Explanations take a few milliseconds and need not
    wait for a pass of the backbones. Those that need another pass of the transformer have a queue of their own.
    Decoding has a queue that all services share. In each queue, users get their turns one after the other. Where
    several passes run at once, no user has all of them.
    """

    def __init__(
        self,
        predictor: Predictor,
        store: PredictionStore,
        decoders: Decoders,
        options: ServiceOptions,
        metrics: Metrics,
        trace: Trace,
    ) -> None:
        self.predictor, self.store, self.metrics, self._trace = predictor, store, metrics, trace
        self._deadline_s, self._decoders = options.deadline_s, decoders
        limit, engine = options.queue_limit, predictor.engine
        gather_s = options.gather_s if engine.batch_size > 1 else 0.0
        self._prediction_queue: WorkQueue[tuple[Upload, bool], tuple[Prediction, dict[str, float]]] = WorkQueue(
            in_threads(partial(_predict, predictor, metrics), engine.concurrency),
            engine.concurrency,
            limit,
            engine.batch_size,
            gather_s,
            max_passes_per_user=max(1, engine.concurrency - 1),
        )
        self._explanation_queues: dict[str, WorkQueue[Callable[[], Any], Any]] = {
            "explain": WorkQueue(
                in_threads(run_calls, options.explainers + 1),
                options.explainers + 1,
                limit,
                max_passes_per_user=options.explainers,
            ),
            "swin": WorkQueue(in_threads(run_calls, 1), 1, limit),
        }
        self._decoding: Counter[str] = Counter()  # the pictures that are decoded or wait for it, by user
        self._compiling: asyncio.Future[None] | None = None
        self.explanation_cache = ExplanationCache(options.explanation_cache_bytes)

    @property
    def waiting(self) -> dict[str, int]:
        """The number of waiting items in each queue, by the name of the queue."""
        queues: dict[str, WorkQueue[Any, Any]] = {"decode": self._decoders.queue, "predict": self._prediction_queue}
        return {name: queue.waiting for name, queue in (queues | self._explanation_queues).items()}

    def deadline(self) -> float:
        """The deadline of a request that arrives now, as a time of `time.monotonic`."""
        return time.monotonic() + self._deadline_s

    def admit(self, deadline: float, user: str) -> None:
        """Raises Overloaded if a queue for predictions has no place for this user, or if the deadline would pass."""
        self._decoders.queue.admit(deadline, user)
        self._prediction_queue.admit(deadline, user, ahead=self._decoding)

    async def predict(self, data: bytes, deadline: float, user: str, with_gradient: bool = False) -> PredictionResult:
        """Decode and classify an upload. Nothing is stored.

        `user` is whoever takes turns with others in the queues. If `with_gradient` is set, the same pass of the head
        also computes the gradient that explains the answer. Raises Overloaded, usually before anything is decoded,
        DeadlineExceeded, and what `app.pictures.decode.decode` raises.
        """
        self.admit(deadline, user)
        self._decoding[user] += 1
        try:
            decoded = await self._decoders.open(data, self.predictor.open_options, deadline, user)
        finally:
            self._decoding[user] -= 1
            if not self._decoding[user]:
                del self._decoding[user]
        self._record("decode", decoded, {"decode": decoded.ran_ms})
        self.metrics.stage_s.labels("decode").observe(decoded.ran_ms / 1e3)
        ran = await self._prediction_queue.run((decoded.result, with_gradient), deadline, user)
        prediction, spent_ms = ran.result
        self._record("predict", ran, spent_ms)
        answer = self.predictor.answer(prediction)
        self.metrics.predictions.labels(answer.label).inc()
        self.metrics.confidence.observe(max(answer.probabilities.values()))
        timings_ms = {"decode": decoded.ran_ms, "queue": decoded.waited_ms + ran.waited_ms, **spent_ms}
        return PredictionResult(prediction, answer, decoded.result, timings_ms)

    async def assess(self, prediction: Prediction, coverage: float | None) -> Assessment | None:
        """Whether the answer may be relied on: see `Predictor.assess`."""
        assessment = await anyio.to_thread.run_sync(self.predictor.assess, prediction, coverage)
        if assessment is not None:
            self.metrics.assessments.labels(assessment.decision).inc()
            self.metrics.novelty.observe(assessment.novelty_percentile)
            for reason in assessment.reasons:
                self.metrics.doubts.labels(reason.code).inc()
        return assessment

    async def similar(self, prediction: Prediction, count: int) -> list[Case]:
        """The training pictures that the picture resembles most: see `Predictor.similar`."""
        return await anyio.to_thread.run_sync(self.predictor.similar, prediction, count)

    async def explain(
        self,
        prediction: Prediction,
        accepted: AcceptedRequest,
        encode: Callable[[Sequence[Explanation]], T],
        deadline: float,
        user: str,
    ) -> T:
        """Explain a prediction and encode the explanations, in the queue that the request names.

        Raises Overloaded, DeadlineExceeded, and what `Predictor.explain` raises.
        """
        request = accepted.request
        if request.queue == "swin":
            await self._compile_tokens(deadline)
        moved = None
        if request.needs_moved_views:
            moved = await self._predict_moved(prediction, request.needs_answer_gradient, deadline, user)
        queue = self._explanation_queues[request.queue]
        queue.admit(deadline, user)
        work = partial(_explain, self.predictor, self.metrics, prediction, accepted, moved, encode)
        ran = await queue.run(work, deadline, user)
        self._record(request.queue, ran, {"explain": ran.ran_ms})
        result: T = ran.result
        return result

    async def _compile_tokens(self, deadline: float) -> None:
        """Wait until the engine can compute tokens. It takes seconds, once, and is no pass of a queue.

        Raises DeadlineExceeded; the next request does not wait so long then. Raises BundleError and EngineError.
        """
        if self._compiling is None or (self._compiling.done() and self._compiling.exception()):
            self._compiling = asyncio.ensure_future(anyio.to_thread.run_sync(self.predictor.engine.compile_tokens))
        await asyncio.wait([self._compiling], timeout=deadline - time.monotonic())
        if not self._compiling.done():
            raise DeadlineExceeded("The graph for tokens is still being compiled; try again later.")
        self._compiling.result()

    async def _predict_moved(
        self, prediction: Prediction, with_gradient: bool, deadline: float, user: str
    ) -> list[Prediction]:
        """Predict the moved views of a picture, for fine detail. Raises Overloaded and DeadlineExceeded."""
        views = len(MOVES) - 1
        self._prediction_queue.admit(deadline, user, self._decoding, items=views)
        uploads = await anyio.to_thread.run_sync(self.predictor.moved_uploads, prediction)
        try:
            ran = await self._prediction_queue.run_all([(upload, with_gradient) for upload in uploads], deadline, user)
        except DeadlineExceeded as error:
            raise DeadlineExceeded(
                f"The {views} further passes of the model for fine detail did not all begin within the time limit of "
                f"{self._deadline_s:g} s: leave out detail=fine, or try again later."
            ) from error
        return [passed.result[0] for passed in ran]

    def _record(self, queue: str, ran: TimedResult[Any], stages_ms: dict[str, float]) -> None:
        self.metrics.wait_s.labels(queue).observe(ran.waited_ms / 1e3)
        self._trace({f"wait: {queue}": ran.waited_ms, **stages_ms})


# Functions, not methods: a bound method in a queue would keep a replaced service alive.


def _predict(predictor: Predictor, metrics: Metrics, items: Sequence[tuple[Upload, bool]]) -> Predictions:
    """The work of the queue for predictions: one pass of the model for all items."""
    predictions = predictor.predict_batch(
        [upload for upload, _ in items], any(with_gradient for _, with_gradient in items)
    )
    metrics.batch.observe(len(items))
    for stage, spent_ms in predictions[0][1].items():  # every picture of a pass has the durations of the whole pass
        metrics.stage_s.labels(stage).observe(spent_ms / 1e3)
    return predictions


def _explain(
    predictor: Predictor,
    metrics: Metrics,
    prediction: Prediction,
    accepted: AcceptedRequest,
    moved: Sequence[Prediction] | None,
    encode: Callable[[Sequence[Explanation]], T],
) -> T:
    """The work of the queues for explanations: explain, then encode."""
    with metrics.stage("explain"):
        explanations = predictor.explain(prediction, accepted, moved)
    with metrics.stage("encode"):
        return encode(explanations)
