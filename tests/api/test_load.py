"""Many callers at once: the same answers as one by one, no blocked event loop, and a clear refusal when it is full."""

from __future__ import annotations

import io
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from prometheus_client.parser import text_string_to_metric_families

from app.api.routes import explanations, health, model, operation, predictions
from app.settings import Settings
from tests.support.asking import PNG, assert_problem, picture_of, png_bytes, predict, probabilities
from tests.support.serving import serving
from tests.support.waiting import wait_until

QUEUE = ("fusionlens_queue_length", "decode")
SIZES_PX = ((96, 64), (64, 96), (40, 40), (200, 30))


def test_the_event_loop_answers_while_a_large_picture_is_decoded(client: httpx.Client, large_picture: bytes) -> None:
    answered = 0
    with ThreadPoolExecutor(1) as sender:
        answer = sender.submit(predict, client, large_picture)
        while not answer.done():
            assert client.get("/health/live").status_code == 200
            answered += 1
    assert answer.result()["label"] and answered > 10  # a loop that decodes would answer one before, and one after


Asked = Callable[[], tuple[int, Any]]


def mixed_requests(client: httpx.Client) -> list[Asked]:
    """What callers ask for: pictures and explanations in all formats, with answers and with refusals."""

    def get(link: str) -> tuple[int, Any]:
        response = client.get(link)
        if response.status_code != 200:
            return response.status_code, response.content
        is_picture = response.headers["content-type"] == "image/png"
        return 200, picture_of(response) if is_picture else np.load(io.BytesIO(response.content)).tolist()

    def post(link: str, picture: bytes) -> tuple[int, Any]:
        response = client.post(link, content=picture, headers=PNG)
        answer = response.json()
        if link == "/predict" and response.status_code == 200:
            answer = {"label": answer["label"], **probabilities(answer)}
        return response.status_code, answer

    requests: list[Asked] = [
        partial(post, "/predict", b"no picture"),
        partial(get, "/gradcam?prediction_id=unknown"),
        partial(get, "/gradcam?colormap=none"),
    ]
    for size in SIZES_PX:
        picture = png_bytes(*size)
        links = predict(client, picture)["links"]
        requests += [
            partial(post, "/predict", picture),
            partial(post, "/gradcam?format=json", picture),
            partial(get, links["gradcam"]),
            partial(get, f"{links['gradcam']}&format=npy&target=benign&branch=swin"),
            partial(get, f"{links['attention']}&query=3&format=npy"),
        ]
    return requests


def assert_same(found: Any, expected: Any) -> None:
    """The same answer; numbers may be 1e-6 off, since on fewer cores a sum may run in another order.

    A pixel may then be drawn in the next of a colour map's 256 colours.
    """
    if isinstance(expected, np.ndarray):
        np.testing.assert_allclose(found, expected, rtol=0, atol=8)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=0, abs=1e-6)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


def test_eight_callers_with_mixed_requests_get_the_answers_of_one_by_one(client: httpx.Client) -> None:
    requests = mixed_requests(client)
    one_by_one = [request() for request in requests]
    assert {status for status, _ in one_by_one} == {200, 404, 415, 422}

    def ask_all(first: int) -> list[tuple[int, tuple[int, Any]]]:
        turns = [(first + n) % len(requests) for n in range(60)]
        return [(turn, requests[turn]()) for turn in turns]

    with ThreadPoolExecutor(8) as callers:
        for of_caller in callers.map(ask_all, range(8)):
            for turn, answer in of_caller:
                assert_same(answer, one_by_one[turn])


def hang_up(client: httpx.Client, picture: bytes, pause: Callable[[], object]) -> None:
    """Send a picture, and leave after a pause, before the answer."""
    head = f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Type: image/png\r\nContent-Length: {len(picture)}\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as connection:
        connection.sendall(head.encode() + picture)
        pause()


def test_when_half_of_the_callers_hang_up_the_others_lose_nothing(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = [png_bytes(*size) for size in SIZES_PX]
    expected = [probabilities(predict(client, picture)) for picture in pictures]

    def call(n: int) -> dict[str, float] | None:
        if n % 2 == 0:
            return probabilities(predict(client, pictures[n % 4]))
        hang_up(client, pictures[n % 4], partial(time.sleep, n % 7 / 200))
        return None

    with ThreadPoolExecutor(16) as callers:
        for n, answer in enumerate(callers.map(call, range(200))):
            if n % 2 == 0:
                assert_same(answer, expected[n % 4])
    assert_same(probabilities(predict(client, pictures[0])), expected[0])
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    # On a busy machine, a picture may still be decoding when its caller has been gone for a while: that is ended.
    assert all("has ended (client_gone)" in warning for warning in warnings), warnings


def test_the_pictures_of_callers_who_hung_up_are_not_decoded(tiny_bundle: Path, large_picture: bytes) -> None:
    def waiting() -> float:
        families = text_string_to_metric_families(client.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples]
        return next(one.value for one in samples if (one.name, *one.labels.values()) == QUEUE)

    all_wait = threading.Event()
    with serving(Settings(bundle=tiny_bundle)) as client, ThreadPoolExecutor(9) as callers:
        first = callers.submit(predict, client, large_picture)
        leaving = [callers.submit(hang_up, client, large_picture, all_wait.wait) for _ in range(8)]
        wait_until(
            lambda: waiting() >= 7
        )  # one of all is being decoded: these callers have one address, so one process
        all_wait.set()
        wait(leaving)
        stayed = predict(client, png_bytes())
        decode_ms = first.result()["timings_ms"]["decode"]
    assert 0 < stayed["timings_ms"]["queue"] < 4 * decode_ms  # eight more pictures would have been decoded


def all_at_once(client: httpx.Client, picture: bytes, callers: int) -> list[httpx.Response]:
    """The answers to callers who send the same picture at the same moment."""
    ready = threading.Barrier(callers)

    def send(_: int) -> httpx.Response:
        ready.wait()
        return client.post("/predict", content=picture, headers=PNG)

    with ThreadPoolExecutor(callers) as threads:
        return list(threads.map(send, range(callers)))


def test_a_full_queue_is_429_with_the_time_to_come_back(tiny_bundle: Path, large_picture: bytes) -> None:
    with serving(Settings(bundle=tiny_bundle, queue_limit=0)) as client:
        responses = all_at_once(client, large_picture, callers=4)
        refused = [response for response in responses if response.status_code != 200]
        assert 0 < len(refused) < 4
        for response in refused:
            assert int(response.headers["retry-after"]) >= 1
            assert f"in {response.headers['retry-after']} s" in assert_problem(response, 429, "overloaded")
        assert predict(client, png_bytes())["label"]


@pytest.fixture(scope="module")
def decode_s(client: httpx.Client, large_picture: bytes) -> float:
    """What the large picture takes to decode, more or less."""
    seconds: float = predict(client, large_picture)["timings_ms"]["decode"] / 1e3
    return seconds


def test_a_wait_that_comes_to_the_deadline_is_504(tiny_bundle: Path, large_picture: bytes, decode_s: float) -> None:
    with serving(Settings(bundle=tiny_bundle, deadline_s=decode_s / 2)) as client:
        responses = all_at_once(client, large_picture, callers=6)
        late = [response for response in responses if response.status_code == 504]
        # 408: on a busy machine a sender may be too slow for it, too.
        assert late and {response.status_code for response in responses} <= {200, 408, 429, 504}
        assert "within the time limit" in assert_problem(late[0], 504, "deadline-exceeded")


@pytest.mark.slow
def test_who_cannot_be_answered_in_time_is_told_so_at_once(
    tiny_bundle: Path, large_picture: bytes, decode_s: float
) -> None:
    with serving(Settings(bundle=tiny_bundle, deadline_s=8 * decode_s)) as client:
        predict(client, large_picture)  # now it is known what one takes
        responses = all_at_once(client, large_picture, callers=20)
        refused = [response for response in responses if response.status_code == 429]
        waited = [response for response in responses if response.status_code != 429]  # an answer, or 504 if it was slow
        assert max(one.elapsed for one in refused) < min(one.elapsed for one in waited)
        assert all(int(response.headers["retry-after"]) >= 1 for response in refused)


def test_requests_take_no_thread_but_for_their_pictures(app: FastAPI) -> None:
    """FastAPI and Starlette run plain functions in threads: most of what a refusal would take."""

    def calls(dependant: Dependant) -> Iterator[Callable[..., object]]:
        if dependant.call is not None:
            yield dependant.call
        for inner in dependant.dependencies:
            yield from calls(inner)

    routers = [predictions.router, explanations.router, model.router, health.router, operation.admin_router]
    routes = [route for router in (*routers, operation.metrics_router) for route in router.routes]
    found = [call for route in routes if isinstance(route, APIRoute) for call in calls(route.dependant)]
    found += app.exception_handlers.values()
    plain = [call for call in found if not (iscoroutinefunction(call) or isasyncgenfunction(call))]
    assert len(found) > 30 and plain == []
