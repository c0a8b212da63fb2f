"""Whatever the settings allow, every question is answered sooner or later; what cannot work is refused at the start."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import annotated_types
import httpx
import pytest
from PIL import Image
from pydantic import ValidationError

from app.settings import Settings
from tests.support.asking import PNG, assert_problem, noise_bytes, png_bytes
from tests.support.pictures import encoded
from tests.support.serving import serving
from tests.support.waiting import wait_until

SMALLEST = encoded(Image.new("RGB", (1, 1), (200, 90, 40)), "PNG")  # one pixel, so that no limit of size is too low
# Not numbers of the service's own: a port, and what belongs to Redis or to several processes.
ELSEWHERE = {"port", "workers", "store_max_entry_bytes", "redis_timeout_s"}
BUSY = (408, 429, 503, 504)  # try again later
EXPLANATIONS = [
    *(
        "/explain",
        "/explain?detail=fine",
        "/explain?detail=fine&compare=cnn,swin,fusion",
        "/explain?method=gradcam%2B%2B",
    ),
    *("/gradcam?format=json", "/gradcam?detail=fine&format=npy", "/explain?method=ablationcam", "/tokens"),
    *("/attention", "/attention?method=gradient", "/attention?layer=swin", "/attention?whole=true&format=npy"),
]


def least(name: str) -> Any:
    """The smallest value that a setting allows, or None if it has no smallest one."""
    bounds = Settings.model_fields[name].metadata
    ge = next((bound.ge for bound in bounds if isinstance(bound, annotated_types.Ge)), None)
    gt = next((bound.gt for bound in bounds if isinstance(bound, annotated_types.Gt)), None)
    if gt is None:
        return ge
    raise AssertionError(f"{name} may be as near to {gt} as nobody can use: give it ge")


LEAST = {name: value for name in Settings.model_fields if name not in ELSEWHERE and (value := least(name)) is not None}


def answered(send: Callable[[], httpx.Response]) -> httpx.Response:
    """The answer of a service that may be busy for a while."""
    answers: list[httpx.Response] = []

    def is_answered() -> bool:
        answers.append(send())
        return answers[-1].status_code not in BUSY

    wait_until(is_answered, pause_s=0.1)
    return answers[-1]


def test_the_law_is_about_the_settings_that_bound_something() -> None:
    expected = {"queue_limit", "decoders", "deadline_s", "max_upload_bytes", "uploads_max_bytes", "store_max_bytes"}
    assert expected <= LEAST.keys() and LEAST["queue_limit"] == 0


@pytest.fixture(scope="module")
def frugal(tiny_bundle: Path) -> Iterator[httpx.Client]:
    """A client of a service with all of them at once."""
    with serving(Settings(bundle=tiny_bundle, **LEAST)) as client:
        yield client


@pytest.mark.parametrize("question", ["/predict", *EXPLANATIONS])
def test_with_the_least_of_everything_a_picture_is_answered(frugal: httpx.Client, question: str) -> None:
    ways: list[dict[str, Any]] = [{"content": SMALLEST, "headers": PNG}, {"files": {"file": ("a.png", SMALLEST)}}]
    for way in ways:
        response = answered(lambda way=way: frugal.post(question, **way))  # type: ignore[misc]
        assert response.status_code == 200, response.text


@pytest.mark.parametrize("queue_limit", [0, 6])
def test_fine_detail_needs_no_longer_queue_than_any_other_question(tiny_bundle: Path, queue_limit: int) -> None:
    with serving(
        Settings(bundle=tiny_bundle, queue_limit=queue_limit, store_max_bytes=1, answers_max_bytes=0)
    ) as client:
        answer = client.post("/predict", content=png_bytes(), headers=PNG).json()
        for question in EXPLANATIONS:
            link = f"{question}{'&' if '?' in question else '?'}prediction_id={answer['prediction_id']}"
            response = client.get(link)  # at once: nobody else is here
            assert response.status_code == 200, response.text


def test_a_body_larger_than_the_memory_for_all_bodies_is_too_large_for_ever(tiny_bundle: Path) -> None:
    with serving(Settings(bundle=tiny_bundle, uploads_max_bytes=100_000)) as client:
        assert client.get("/model").json()["limits"]["max_upload_bytes"] == 100_000
        picture = noise_bytes(256, 256)
        refused = client.post("/predict", content=picture, headers=PNG)
        assert "100,000" in assert_problem(refused, 413, "upload-too-large")
        chunked = client.post("/predict", content=iter([picture]), headers=PNG)
        assert_problem(chunked, 413, "upload-too-large")
        just_fitting = noise_bytes(170, 170)
        assert len(just_fitting) > 80_000
        assert client.post("/predict", content=just_fitting, headers=PNG).status_code == 200


NUMBERS = [name for name, field in Settings.model_fields.items() if field.annotation in (int, float)]


@pytest.mark.parametrize(("name", "value"), [*product(NUMBERS, [math.inf, -math.inf, math.nan]), ("store_ttl_s", 1e12)])
def test_what_is_no_number_of_anything_is_refused_at_the_start(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({name: value})
