"""Many callers at once: the same answers as one by one, no blocked event loop, and a clear refusal when it is full."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import Settings
from tests.api.asking import PNG, assert_problem, png_bytes, predict, probabilities
from tests.inference.pictures import png
from tests.serving import serving

SIZES_PX = ((96, 64), (64, 96), (40, 40), (200, 30))


@pytest.fixture(scope="module")
def large_picture() -> bytes:
    """32 million black pixels in a small file: what takes longest to decode for its bytes."""
    return png(6400, 5000, 8, 2, bytes(5000 * (1 + 3 * 6400)))


def test_the_event_loop_answers_while_a_large_picture_is_decoded(client: httpx.Client, large_picture: bytes) -> None:
    answered_at_s: list[float] = []
    with ThreadPoolExecutor(1) as sender:
        answer = sender.submit(predict, client, large_picture)
        while not answer.done():
            assert client.get("/health/live").status_code == 200
            answered_at_s.append(time.perf_counter())
    decode_s = answer.result()["timings_ms"]["decode"] / 1e3
    silence_s = max(later - earlier for earlier, later in pairwise(answered_at_s))
    assert silence_s < decode_s / 2


def test_hundreds_of_mixed_requests_at_once_get_the_answers_of_one_by_one(client: httpx.Client) -> None:
    pictures = [png_bytes(*size) for size in SIZES_PX]
    links = [predict(client, picture)["links"] for picture in pictures]

    def get(link: str) -> tuple[int, Any]:
        response = client.get(link)
        return response.status_code, response.content

    def post(link: str, picture: bytes) -> tuple[int, Any]:
        response = client.post(link, content=picture, headers=PNG)
        predicted = link == "/predict" and response.status_code == 200
        return response.status_code, probabilities(response.json()) if predicted else response.content

    requests = [partial(post, "/predict", b"no picture"), partial(get, "/gradcam?prediction_id=unknown")]
    for picture, link in zip(pictures, links, strict=True):
        requests += [
            partial(post, "/predict", picture),
            partial(post, "/gradcam?format=json", picture),
            partial(get, link["gradcam"]),
            partial(get, f"{link['gradcam']}&format=npy&target=benign&branch=swin"),
            partial(get, f"{link['attention']}&query=3"),
        ]
    one_by_one = [request() for request in requests]
    assert {status for status, _ in one_by_one} == {200, 404, 415}
    rounds = 10
    with ThreadPoolExecutor(16) as callers:
        at_once = list(callers.map(lambda request: request(), requests * rounds))
    assert len(at_once) > 200
    assert at_once == one_by_one * rounds


def all_at_once(client: httpx.Client, picture: bytes, callers: int) -> list[httpx.Response]:
    """The answers to callers who send the same picture at the same moment."""
    ready = threading.Barrier(callers)

    def send(_: int) -> httpx.Response:
        ready.wait()
        return client.post("/predict", content=picture, headers=PNG)

    with ThreadPoolExecutor(callers) as threads:
        return list(threads.map(send, range(callers)))


def test_a_full_queue_is_429_with_the_time_to_come_back(tiny_bundle: Path, large_picture: bytes) -> None:
    with serving(Settings(bundle=tiny_bundle, decoders=1, queue_limit=0)) as client:
        responses = all_at_once(client, large_picture, callers=4)
        refused = [response for response in responses if response.status_code != 200]
        assert 0 < len(refused) < 4
        for response in refused:
            assert int(response.headers["retry-after"]) >= 1
            assert f"in {response.headers['retry-after']} s" in assert_problem(response, 429, "overloaded")
        assert predict(client, png_bytes())["label"]


def test_a_wait_beyond_the_deadline_is_504(tiny_bundle: Path, large_picture: bytes) -> None:
    with serving(Settings(bundle=tiny_bundle, decoders=1, deadline_s=0.05)) as client:
        responses = all_at_once(client, large_picture, callers=4)
        late = [response for response in responses if response.status_code == 504]
        assert late and {response.status_code for response in responses} <= {200, 429, 504}
        assert "0.05 s" in assert_problem(late[0], 504, "deadline-exceeded")
