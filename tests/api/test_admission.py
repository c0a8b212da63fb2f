"""A picture that there is no place for is refused like any other request: after its key, with all headers, counted."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.server.provision import add_key
from app.settings import Settings
from tests.support.asking import PNG, assert_problem
from tests.support.serving import serving

ORIGIN = "https://elsewhere.example"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file of keys, and the key in it."""
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    return file, add_key(file, "site-a", ("predict", "metrics"))


@pytest.mark.parametrize("route", ["/predict", "/gradcam"])
@pytest.mark.parametrize("prefix", ["", "/lens"])
def test_a_refused_picture_is_told_and_counted_by_its_route(
    tiny_bundle: Path, large_picture: bytes, keys: tuple[Path, str], prefix: str, route: str
) -> None:
    file, key = keys
    settings = Settings(bundle=tiny_bundle, queue_limit=0, keys=file, root_path=prefix, cors_origins=(ORIGIN,))
    with serving(settings) as client:
        answers = at_once(client, f"{prefix}{route}", large_picture, [key, key, "wrong", key, key, "wrong"])
        counted = requests_of(client, prefix, key)
    known, unknown = [answers[number] for number in (0, 1, 3, 4)], [answers[number] for number in (2, 5)]
    for answer in unknown:  # whoever has no key does not learn whether there is a place
        assert_problem(answer, 401, "unauthorized")
    refused = [answer for answer in known if answer.status_code != 200]
    assert 0 < len(refused) < 4
    for answer in refused:
        assert_problem(answer, 429, "overloaded")
        assert answer.headers["x-request-id"] and answer.headers["access-control-allow-origin"]
    assert counted["POST", route, "429"] == len(refused)


def at_once(client: httpx.Client, path: str, picture: bytes, keys: list[str]) -> list[httpx.Response]:
    """The answers to one picture with each of these keys, sent at the same moment."""
    ready = threading.Barrier(len(keys))

    def send(key: str) -> httpx.Response:
        ready.wait()
        return client.post(path, content=picture, headers=PNG | {"x-api-key": key, "origin": ORIGIN})

    with ThreadPoolExecutor(len(keys)) as threads:
        return list(threads.map(send, keys))


def requests_of(client: httpx.Client, prefix: str, key: str) -> dict[tuple[str, ...], float]:
    """How many requests were answered, by method, route and status."""
    text = client.get(f"{prefix}/metrics", headers={"x-api-key": key}).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        (one.labels["method"], one.labels["route"], one.labels["status"]): one.value
        for one in samples
        if one.name == "fusionlens_requests_total"
    }
