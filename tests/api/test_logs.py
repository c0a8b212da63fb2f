"""The log and the traces: one line a request, its id, nothing of its content."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.server.provision import add_key
from app.settings import Settings
from tests.support import served_process as process
from tests.support.asking import PNG, png_bytes, predict
from tests.support.serving import serving
from tests.support.waiting import PATIENCE_S


def test_a_well_formed_request_id_is_kept_and_any_other_is_replaced(client: httpx.Client) -> None:
    for name in ("a", "0c5a8a4e-1f0e-4c43-9e2a-1f5c8a7d9b11", "trace_7.b", "x" * 128):
        assert client.get("/model", headers={"x-request-id": name}).headers["x-request-id"] == name
    for name in ("", "x" * 129, "with space", "new\tline", "<script>", "ä"):
        answered = client.get("/model", headers={b"x-request-id": name.encode()}).headers["x-request-id"]
        assert answered != name and len(answered) == 32
    assert len({client.get("/model").headers["x-request-id"] for _ in range(10)}) == 10
    assert client.get("/nowhere").headers["x-request-id"]


def test_every_request_is_one_line_of_json_without_its_content(tiny_bundle: Path, tmp_path: Path) -> None:
    key = add_key(file := tmp_path / "keys.toml", "hospital", ["predict"])
    env = process.environment(
        process.ROOT, FUSIONLENS_LOG="json", FUSIONLENS_KEYS=str(file), FUSIONLENS_DRAIN_S="0",
        FUSIONLENS_BUNDLE=str(tiny_bundle),
    )  # fmt: skip
    with process.serving(tmp_path, env) as served:
        with httpx.Client(base_url=served.address, trust_env=False, headers={"x-api-key": key}) as client:
            link = client.post("/predict", content=png_bytes(), headers=PNG).json()["links"]["gradcam"]
            client.get(link, headers={"x-request-id": "ours-1"})
            client.post("/predict", content=b"secret-content", headers=PNG)
            client.post("/predict?secret-query", content=png_bytes(), headers=PNG)
            client.get("/secret-path")
        httpx.get(f"{served.address}/model", trust_env=False)
        served.process.send_signal(signal.SIGTERM)
        output, errors = served.process.communicate(timeout=PATIENCE_S)
    assert errors == ""
    lines = [json.loads(line) for line in output.splitlines()]
    told = [(line["method"], line["route"], line["status"], line["problem"], line["key"]) for line in lines]
    assert told == [
        ("POST", "/predict", 200, None, "hospital"),
        ("GET", "/gradcam", 200, None, "hospital"),
        ("POST", "/predict", 415, "unsupported-media-type", "hospital"),
        ("POST", "/predict", 422, "bad-parameter", "hospital"),
        ("GET", "none", 404, "not-found", "hospital"),
        ("GET", "/model", 401, "unauthorized", None),
    ]
    assert lines[1]["request_id"] == "ours-1"
    assert all(line["duration_ms"] > 0 and line["timestamp"] and line["level"] == "info" for line in lines)
    assert not any(secret in output for secret in ("secret", key, link.partition("=")[2]))


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP receiver on loopback: its address, and the spans that came."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    spans: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            spans.extend(
                span for of in sent.resource_spans for scope in of.scope_spans for span in scope.spans
            )  # fmt: skip
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
        finally:
            server.shutdown()


def test_a_trace_has_the_request_and_its_stages_and_joins_the_callers(tiny_bundle: Path) -> None:
    pytest.importorskip("opentelemetry.sdk")
    trace_id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with collector() as (endpoint, spans):
        with serving(Settings(bundle=tiny_bundle, otlp_endpoint=endpoint)) as client:
            link = predict(client, png_bytes())["links"]["gradcam"]
            spans.clear()
            client.get(link, headers={"traceparent": f"00-{trace_id}-{parent}-01"})
            client.get("/health/ready")
        by_name = {span.name: span for span in spans}
    request = by_name["GET /gradcam"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (trace_id, parent)
    stage = by_name["explain"]
    assert (stage.trace_id, stage.parent_span_id) == (request.trace_id, request.span_id)
    assert request.start_time_unix_nano <= stage.start_time_unix_nano < stage.end_time_unix_nano
    assert stage.end_time_unix_nano <= request.end_time_unix_nano
    assert {"decode", "trunk", "head", "POST /predict"} <= by_name.keys()
    assert not any("health" in name for name in by_name)
