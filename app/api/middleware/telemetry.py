"""Telemetry of requests: each gets an id, one line in the log, and is counted in the metrics."""

from __future__ import annotations

import re
import secrets
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.telemetry.metrics import Metrics

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
logger = structlog.stdlib.get_logger("fusionlens.requests")


class TelemetryMiddleware:
    """The outermost ASGI middleware."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"], state["owner"], state["problem"] = _request_id(scope), None, None
        state["told"] = {}  # what a route adds to the line of the log
        # If the application raises, ServerErrorMiddleware outside this one answers 500.
        began, status = time.perf_counter(), 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                headers += [(b"x-request-id", state["request_id"].encode()), (b"x-content-type-options", b"nosniff")]
            await send(message)

        self._metrics.in_progress.inc()
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._metrics.in_progress.dec()
            self._record(scope, status, time.perf_counter() - began)

    def _record(self, scope: Scope, status: int, spent_s: float) -> None:
        state, route = scope["state"], _route_template(scope)
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.request_s.labels(route).observe(spent_s)
        if state["problem"]:
            self._metrics.refusals.labels(state["problem"]).inc()
        logger.info(
            "request",
            request_id=state["request_id"],
            method=method,
            route=route,
            status=status,
            duration_ms=round(spent_s * 1e3, 1),
            key=state["owner"] or None,
            problem=state["problem"],
            **state["told"],
        )


def _request_id(scope: Scope) -> str:
    """The client's id of the request, if it is short and has only plain characters; else a new random id."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return str(value.decode("ascii"))
    return secrets.token_hex(16)


def _route_template(scope: Scope) -> str:
    """The template of the route. Paths would let clients create any number of time series."""
    return str(getattr(scope.get("route"), "path", None) or "none")
