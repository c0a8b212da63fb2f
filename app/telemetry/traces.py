"""Tracing by OpenTelemetry, if `otlp_endpoint` is set: a span for each request, with a child span for each stage.

One pass of the model may serve several requests, in another thread. So the spans of stages are created afterwards, from
the measured times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from fastapi import FastAPI

from app import __version__
from app.errors import EngineError

# Records the durations of stages in ms, in the order in which they ran. Called when the last one has ended.
Trace = Callable[[Mapping[str, float]], None]


@runtime_checkable
class Tracing(Protocol):
    """The interface of a tracer."""

    def record(self, stages_ms: Mapping[str, float]) -> None:
        """Add spans for stages that have just ended to the span of the request."""
        ...

    def instrument(self, app: FastAPI) -> None:
        """Create a span for every request, as a child of the trace that the caller sends along."""
        ...

    def shutdown(self) -> None:
        """Send the remaining spans and stop."""
        ...


class NoTracing:
    """A tracer that does nothing."""

    def record(self, stages_ms: Mapping[str, float]) -> None:
        """See `Tracing.record`."""

    def instrument(self, app: FastAPI) -> None:
        """See `Tracing.instrument`."""

    def shutdown(self) -> None:
        """See `Tracing.shutdown`."""


class OpenTelemetryTracing:
    """A tracer that sends spans to `endpoint` by OTLP over HTTP.

    Raises EngineError if the packages of the extra `otel` are missing.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise EngineError("otlp_endpoint needs OpenTelemetry: pip install 'fusionlens[otel]'.") from error
        resource = Resource.create({"service.name": "fusionlens", "service.version": __version__})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
        self._tracer = self._provider.get_tracer("fusionlens", __version__)

    def record(self, stages_ms: Mapping[str, float]) -> None:
        """See `Tracing.record`."""
        began_ns = time.time_ns() - round(sum(stages_ms.values()) * 1e6)
        for stage, spent_ms in stages_ms.items():
            span = self._tracer.start_span(stage, start_time=began_ns)
            began_ns += round(spent_ms * 1e6)
            span.end(began_ns)

    def instrument(self, app: FastAPI) -> None:
        """See `Tracing.instrument`."""
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        # No spans for single chunks sent or received, and none for probes and scrapes.
        FastAPIInstrumentor.instrument_app(
            app, tracer_provider=self._provider, exclude_spans=["receive", "send"], excluded_urls="health/,metrics"
        )

    def shutdown(self) -> None:
        """See `Tracing.shutdown`."""
        self._provider.shutdown()


def make_tracing(endpoint: str | None) -> Tracing:
    """The tracer for the setting `otlp_endpoint`. Raises EngineError."""
    return NoTracing() if endpoint is None else OpenTelemetryTracing(endpoint)
