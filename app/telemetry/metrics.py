"""The metrics of the service for Prometheus, whose conventions the names and units follow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

NAMESPACE = "fusionlens"
# Histogram buckets in seconds. A stage takes from half a millisecond to seconds, a request up to the deadline.
_STAGE_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5)
_REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30)
_WAIT_S = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)
_BATCH = (1, 2, 4, 8, 16, 32, 64)
_CONFIDENCE = tuple(n / 20 for n in range(1, 21))
_DOUBTS = (
    "more_than_one_class", "no_class", "contradicts_label", "foreign_picture", "near_threshold", "poor_quality",
)  # fmt: skip
_PERCENTILE = (10, 25, 50, 75, 90, 95, 98, 99, 100)


class Metrics:
    """The metrics of one application, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

        self.requests = self._counter("requests", "Requests answered.", "method", "route", "status")
        self.request_s = self._histogram(
            "request_duration_seconds",
            "Time from the headers of a request to the end of its response.",
            _REQUEST_S,
            "route",
        )
        self.in_progress = self._gauge("requests_in_progress", "Requests being answered.")
        self.refusals = self._counter(
            "refusals", "Requests answered with a problem, by the name of the problem.", "reason"
        )

        self.stage_s = self._histogram(
            "stage_duration_seconds",
            "Time of a stage: decode per picture, trunk and head per pass, explain and encode per explanation.",
            _STAGE_S,
            "stage",
        )
        self.wait_s = self._histogram("queue_wait_seconds", "Time that an item waited in a queue.", _WAIT_S, "lane")
        self.queue_length = self._gauge("queue_length", "Items waiting in a queue.", "lane")
        self.batch = self._histogram("batch_pictures", "Pictures in one pass of the trunk.", _BATCH)

        self.store_entries = self._gauge("store_entries", "Stored predictions; in Redis, all keys of its database.")
        self.store_bytes = self._gauge(
            "store_bytes", "Memory of the stored predictions; in Redis, all memory that it uses."
        )
        self.store_reads = self._counter("store_reads", "Reads from the store: hit, miss, failed, forged.", "outcome")
        self.store_writes = self._counter("store_writes", "Writes to the store: stored, failed, too_large.", "outcome")
        self.store_up = self._gauge("store_up", "1 if the last command to the store succeeded.")
        self.cache_reads = self._counter(
            "explanation_cache_reads", "Reads from the cache of explanations: hit, miss.", "outcome"
        )

        self.predictions = self._counter("predictions", "Predictions, by predicted label.", "label")
        self.confidence = self._histogram(
            "prediction_confidence", "Probability of the most probable class.", _CONFIDENCE
        )
        self.assessments = self._counter(
            "assessments", "Answers whose trust was assessed, by decision: answer, refer.", "decision"
        )
        self.doubts = self._counter(
            "doubts", "Reasons that were given to doubt an answer, whether or not they refer it to a person.", "reason"
        )
        self.novelty = self._histogram(
            "novelty_percentile",
            "Calibration pictures that are less foreign than the picture, in percent.",
            _PERCENTILE,
        )
        self.model = self._gauge(
            "model_info", "Always 1; the labels name the model that is served.", "name", "version", "sha256", "engine"
        )
        self.ready = self._gauge("ready", "1 if the service accepts new clients.")
        self.decoder_ends = self._counter(
            "decoder_ends",
            "Processes for decoding that were ended: time, deadline, client_gone, died, invalid_answer.",
            "reason",
        )
        self.reloads = self._counter("reloads", "Reloads of the bundle: loaded, unchanged, refused.", "outcome")

        # Created at 0: increase() misses the first event of a counter that appears together with it.
        for counter, outcomes in (
            (self.store_reads, ("hit", "miss", "failed", "forged")),
            (self.store_writes, ("stored", "failed", "too_large")),
            (self.cache_reads, ("hit", "miss")),
            (self.decoder_ends, ("time", "deadline", "client_gone", "died", "invalid_answer")),
            (self.reloads, ("loaded", "unchanged", "refused")),
            (self.assessments, ("answer", "refer")),
            (self.doubts, _DOUBTS),
        ):
            for outcome in outcomes:
                counter.labels(outcome)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the time of a block of code, unless it raises."""
        began = time.perf_counter()
        yield
        self.stage_s.labels(name).observe(time.perf_counter() - began)

    def set_model(self, name: str, version: str, sha256: str, engine: str) -> None:
        """Set the labels of `model_info` to the model that is served from now on."""
        self.model.clear()
        self.model.labels(name, version, sha256, engine).set(1)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, namespace=NAMESPACE, registry=self.registry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(name, documentation, labels, namespace=NAMESPACE, registry=self.registry)

    def _histogram(self, name: str, documentation: str, buckets: Sequence[int | float], *labels: str) -> Histogram:
        return Histogram(name, documentation, labels, namespace=NAMESPACE, registry=self.registry, buckets=buckets)
