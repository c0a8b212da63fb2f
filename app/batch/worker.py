"""Makes the rows of a job: pictures are read and decoded beside the model, and their rows come in order."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from app.batch.asked import Model
from app.batch.decoding import DecoderPool, DecodingOptions
from app.batch.entries import Entry
from app.batch.job import Job
from app.batch.parts import write_overlay
from app.batch.reading import read
from app.batch.rows import REFUSED, Row, answered, heatmap, named, refused
from app.drawing.overlay import Style
from app.drawing.png import encode_png
from app.errors import FusionLensError
from app.predicting.overlays import draw_over
from app.predicting.prediction import Prediction, Upload, upload_of

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Place:
    """Where a picture stands: its part, and its place there, both from 0."""

    part: int
    place: int


@dataclass(frozen=True)
class Decoded:
    """A picture that was read: its row so far, what the model takes of it, and how long that took.

    `upload` is None if the picture was refused; the row is complete then.
    """

    place: Place
    row: Row
    upload: Upload | None
    spent_ms: float


class Worker:
    """Makes rows with one loaded model. Few pictures are in memory at once, however many there are.

    Pictures go through two stages, each with threads of its own: in the first, processes decode; in the second, the
    engine runs as many passes at once, of as many pictures, as it uses the machine best with. Close it at the end.
    """

    def __init__(self, model: Model, options: DecodingOptions) -> None:
        self._model, self._predictor, self._options = model, model.predictor, options
        engine = model.predictor.engine
        self._decoders = DecoderPool(options)
        self._decoding = ThreadPoolExecutor(options.processes, "decode")
        self._predicting = ThreadPoolExecutor(engine.concurrency, "predict")

    def rows(self, job: Job, parts: Iterable[int]) -> Iterator[tuple[Place, Row]]:
        """The rows of some parts of a job, in order.

        Raises JobRefused, JobEnded if pictures can no longer be decoded, and OSError if an overlay cannot be written.
        """
        engine = self._predictor.engine
        batches = _batches(job, parts, engine.batch_size)
        # So far ahead that the engine has work while one picture takes long to decode, and while rows are written.
        decoded = _in_order(
            batches, self._decoding, lambda batch: self._decode(job, batch), 4 * self._options.processes
        )
        rows = _in_order(decoded, self._predicting, lambda batch: self._predict(job, batch), 2 * engine.concurrency + 1)
        for batch in rows:
            yield from batch

    def close(self) -> None:
        """End all threads and processes, whatever they do."""
        for threads in (self._decoding, self._predicting):
            threads.shutdown(wait=False, cancel_futures=True)
        self._decoders.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _decode(self, job: Job, batch: Sequence[tuple[Place, Entry]]) -> list[Decoded]:
        return [self._decode_one(job, place, entry) for place, entry in batch]

    def _decode_one(self, job: Job, place: Place, entry: Entry) -> Decoded:
        began, row = time.perf_counter(), named(entry)
        upload = None
        try:
            data = read(entry, job.facts.folder, self._options.picture_bytes)
            row["sha256"] = hashlib.sha256(data).hexdigest()
            upload = upload_of(self._decoders.open(data, self._model.open_options))
        except REFUSED as error:
            assert isinstance(error, FusionLensError)
            row |= refused(error)
        spent_ms = (time.perf_counter() - began) * 1e3
        return Decoded(place, row | {"time_ms": spent_ms}, upload, spent_ms)

    def _predict(self, job: Job, batch: Sequence[Decoded]) -> list[tuple[Place, Row]]:
        uploads = [one.upload for one in batch if one.upload is not None]
        predictions = iter(self._predictor.predict_batch(uploads, self._model.needs_gradient) if uploads else ())
        rows = []
        for one in batch:
            row = one.row
            if one.upload is not None:
                prediction, passed_ms = next(predictions)
                began = time.perf_counter()
                row |= self._answer(job, one.place, prediction)
                answering_ms = (time.perf_counter() - began) * 1e3
                row["time_ms"] = one.spent_ms + sum(passed_ms.values()) / len(uploads) + answering_ms
            rows.append((one.place, row))
        return rows

    def _answer(self, job: Job, place: Place, prediction: Prediction) -> Row:
        predictor, asked = self._predictor, self._model.asked
        row = answered(predictor.answer(prediction), predictor.assess(prediction, asked.coverage))
        row["notes"] = list(prediction.upload.notes)
        for method, accepted in self._model.heatmaps.items():
            (explanation,) = predictor.explain(prediction, accepted)
            row |= heatmap(method, explanation.heatmap)
            if asked.overlays:
                png = encode_png(draw_over(prediction, explanation, Style()).picture)
                row[f"overlay_{method}"] = write_overlay(job, place.part, place.place, method, png)
        return row


def _batches(job: Job, parts: Iterable[int], size: int) -> Iterator[list[tuple[Place, Entry]]]:
    """The pictures in batches. None reaches beyond its part, so that a job that is gone on with has the same ones."""
    for part in parts:
        entries = [(Place(part, place), entry) for place, entry in enumerate(job.entries(part))]
        for first in range(0, len(entries), size):
            yield entries[first : first + size]


def _in_order(
    items: Iterable[Item], threads: ThreadPoolExecutor, work: Callable[[Item], Result], ahead: int
) -> Iterator[Result]:
    """The results of some work, in the order of the items. `ahead` items at most are worked on or wait for it."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(threads.submit(work, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
