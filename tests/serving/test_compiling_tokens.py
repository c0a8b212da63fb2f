"""The graph for tokens is compiled at the first request for them. That takes seconds, and is no pass of their queue."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from app.api.application import create_app
from app.engines.protocol import Engine, HeadResult, TokenResult
from app.errors import EngineError
from app.models.feature_maps import FeatureMaps
from app.settings import Settings
from app.shapes import Float, Float32, UInt8
from tests.serving.test_queue import in_time
from tests.support.asking import PNG, assert_problem, png_bytes, predict
from tests.support.serving import serving_app
from tests.support.waiting import PATIENCE_S, wait_until

DEADLINE_S = 2.0


@dataclass
class Slow:
    """An engine whose graph for tokens is compiled when it is let go. `failures` of the first attempts fail."""

    right: Engine
    failures: int = 0
    compiled: threading.Event = field(default_factory=threading.Event)
    attempts: int = 0
    name: str = "slow"
    version: str = "1"
    concurrency: int = 1
    batch_size: int = 1

    @property
    def token_stages(self) -> tuple[int, ...]:
        return self.right.token_stages

    def compile_tokens(self) -> None:
        self.attempts += 1
        assert self.compiled.wait(PATIENCE_S)
        if self.attempts <= self.failures:
            raise EngineError("The graph for tokens is not there now.")
        self.right.compile_tokens()

    def encode(self, images: UInt8[np.ndarray, "b h w 3"]) -> FeatureMaps[np.ndarray]:
        return self.right.encode(images)

    def classify(self, maps: FeatureMaps[np.ndarray]) -> Float32[np.ndarray, "b k"]:
        return self.right.classify(maps)

    def explain(self, maps: FeatureMaps[np.ndarray], target: Float[np.ndarray, "b k"]) -> HeadResult:
        return self.right.explain(maps, target)

    @property
    def has_token_attention(self) -> bool:
        return self.right.has_token_attention

    @property
    def is_lifted(self) -> bool:
        return self.right.is_lifted

    def path_evidence(
        self,
        maps: FeatureMaps[np.ndarray],
        baseline: FeatureMaps[np.ndarray],
        positions: Float[np.ndarray, " nodes"],
        targets: Float[np.ndarray, "targets k"],
    ) -> FeatureMaps[np.ndarray]:
        return self.right.path_evidence(maps, baseline, positions, targets)

    def ablated_logits(
        self, maps: FeatureMaps[np.ndarray], baseline: FeatureMaps[np.ndarray], groups: FeatureMaps[np.ndarray]
    ) -> Float32[np.ndarray, "all_groups k"]:
        return self.right.ablated_logits(maps, baseline, groups)

    def answer(self, maps: FeatureMaps[np.ndarray], bias: Float[np.ndarray, " k"]) -> HeadResult:
        return self.right.answer(maps, bias)

    def tokens(self, image: UInt8[np.ndarray, "h w 3"], gradient: Float[np.ndarray, "c gh gw"]) -> TokenResult:
        return self.right.tokens(image, gradient)


@pytest.fixture
def app(tiny_bundle: Path) -> FastAPI:
    """An application that has loaded its bundle."""
    app = create_app(Settings(bundle=tiny_bundle, deadline_s=DEADLINE_S))
    app.state.models.load()
    return app


@pytest.fixture
def engine(app: FastAPI) -> Slow:
    """Its engine."""
    predictor = app.state.models.current.predictor
    predictor.engine.compile_tokens()  # so that what is let go takes no time
    predictor.engine = slow = Slow(predictor.engine)
    return slow


@pytest.fixture
def client(app: FastAPI, engine: Slow) -> Iterator[httpx.Client]:
    """A client of it."""
    with serving_app(app) as client:
        yield client
        engine.compiled.set()  # else the service could not end


def test_who_cannot_wait_for_it_gets_504_and_spoils_nothing_for_the_next(
    app: FastAPI, engine: Slow, client: httpx.Client
) -> None:
    links = predict(client, png_bytes())["links"]
    queue = app.state.models.current._explanation_queues["swin"]
    for _ in range(2):  # the second waits for the same compilation
        detail = assert_problem(client.get(links["tokens"]), 504, "deadline-exceeded")
        assert "still being compiled" in detail
    assert engine.attempts == 1
    assert queue.waiting == 0
    assert queue.expected_wait_s("anyone", ahead={"others": 50}) == 0  # no pass has been seen yet
    queue.admit(in_time() - PATIENCE_S + DEADLINE_S, "anyone", ahead={"others": 1})
    assert client.get(links["gradcam"]).status_code == 200  # other explanations do not wait for it
    engine.compiled.set()
    wait_until(lambda: app.state.models.current._compiling.done())
    assert client.get(links["tokens"]).status_code == 200
    assert queue.expected_wait_s("anyone", ahead={"anyone": 1}) < DEADLINE_S / 2
    assert client.post("/tokens", content=png_bytes(), headers=PNG).status_code == 200
    assert client.get(links["attention"] + "&layer=swin").status_code == 200
    assert engine.attempts == 1


def test_many_who_come_at_once_wait_for_one_compilation(engine: Slow, client: httpx.Client) -> None:
    link = predict(client, png_bytes())["links"]["tokens"]
    statuses: list[int] = []

    def ask(n: int) -> None:
        answer = httpx.get(f"{client.base_url}{link}&alpha=0.{n + 1}", timeout=PATIENCE_S, trust_env=False)
        statuses.append(answer.status_code)

    asking = [threading.Thread(target=ask, args=[n]) for n in range(8)]
    for thread in asking:
        thread.start()
    wait_until(lambda: engine.attempts == 1)
    engine.compiled.set()
    for thread in asking:
        thread.join()
    assert (statuses, engine.attempts) == ([200] * 8, 1)


def test_a_compilation_that_failed_is_tried_again_by_the_next(engine: Slow, client: httpx.Client) -> None:
    engine.failures = 2
    engine.compiled.set()
    link = predict(client, png_bytes())["links"]["tokens"]
    for _ in range(2):
        assert_problem(client.get(link), 503, "engine-unusable")
    assert client.get(link).status_code == 200
    assert engine.attempts == 3
