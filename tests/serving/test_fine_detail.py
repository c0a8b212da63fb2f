"""Fine detail takes further passes of the model: they are not begun once nobody waits for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.api.application import create_app
from app.engines.protocol import Engine
from app.settings import Settings
from tests.support.asking import PNG, png_bytes, predict
from tests.support.serving import serving_app
from tests.support.waiting import PATIENCE_S, wait_until
from tests.support.wire import connected


class Gated:
    """An engine whose passes are counted, and last until they are let go."""

    def __init__(self, right: Engine) -> None:
        self.right, self.passes, self.may_end = right, 0, threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.right, name)

    def encode(self, images: Any) -> Any:
        self.passes += 1
        assert self.may_end.wait(PATIENCE_S)
        return self.right.encode(images)


@pytest.fixture
def app(tiny_bundle: Path) -> FastAPI:
    """An application that has loaded its bundle."""
    app = create_app(Settings(bundle=tiny_bundle, deadline_s=PATIENCE_S))
    app.state.models.load()
    return app


@pytest.fixture
def engine(app: FastAPI) -> Gated:
    """Its engine."""
    predictor = app.state.models.current.predictor
    predictor.engine = gated = Gated(predictor.engine)
    return gated


@pytest.fixture
def client(app: FastAPI, engine: Gated) -> Iterator[httpx.Client]:
    """A client of it."""
    with serving_app(app) as client:
        yield client
        engine.may_end.set()  # else the service could not end


@pytest.mark.parametrize("by", ["GET", "POST"])
def test_a_client_who_hangs_up_has_no_further_pass_begun(
    app: FastAPI, engine: Gated, client: httpx.Client, by: str
) -> None:
    engine.may_end.set()
    link = predict(client, png_bytes())["links"]["explain"] + "&detail=fine"
    picture = png_bytes()
    asked = f"GET {link} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
    if by == "POST":
        head = f"POST /explain?detail=fine HTTP/1.1\r\nHost: test\r\nContent-Length: {len(picture)}\r\n"
        asked = head.encode() + b"Content-Type: image/png\r\n\r\n" + picture
    queue = app.state.models.current._prediction_queue
    engine.may_end.clear()
    before = engine.passes
    with connected(client, asked):
        wait_until(lambda: engine.passes == before + 1 and (by == "POST" or queue.waiting == 7))
    wait_until(
        lambda: queue.waiting == 0 and client.get("/metrics").text.count("\nfusionlens_requests_in_progress 1.0")
    )
    engine.may_end.set()
    assert client.post("/predict", content=picture, headers=PNG).status_code == 200
    assert engine.passes == before + 2


def test_fine_detail_that_does_not_fit_in_the_time_limit_says_so(
    app: FastAPI, engine: Gated, client: httpx.Client
) -> None:
    engine.may_end.set()
    link = predict(client, png_bytes())["links"]["explain"] + "&detail=fine"
    app.state.models.current._deadline_s = 0.2
    engine.may_end.clear()
    refused = client.get(link)
    assert refused.status_code == 504 and "leave out detail=fine" in refused.json()["detail"]
