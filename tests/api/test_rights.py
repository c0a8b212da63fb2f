"""Who may ask what: every route, by every method, under every spelling of its path that a client might try."""

from __future__ import annotations

import itertools
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import get_args

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from app.api.application import create_app
from app.api.keys.keys import Right
from app.server.provision import add_key
from app.settings import Settings
from tests.support.asking import assert_problem
from tests.support.serving import serving, serving_app
from tests.support.waiting import PATIENCE_S
from tests.support.wire import connected

# The rights, written once more by hand: what the service does is compared with this table.
RIGHTS: dict[str, Right | None] = {
    "/": None,
    "/docs": None,
    "/openapi.json": None,
    "/web/page.js": None,
    "/health/live": None,
    "/health/ready": None,
    "/predict": "predict",
    "/explain": "predict",
    "/gradcam": "predict",
    "/attention": "predict",
    "/tokens": "predict",
    "/novelty": "predict",
    "/similar": "predict",
    "/model": "predict",
    "/predictions/x": "predict",
    "/predictions/x/picture": "predict",
    "/metrics": "metrics",
    "/admin/reload": "admin",
}
METHODS = ("GET", "HEAD", "POST", "DELETE", "PATCH", "BREW")
TRICKS: dict[str, Callable[[str], str]] = {
    "as it is": lambda path: path,
    "a newline": lambda path: path + "%0A",
    "a newline before": lambda path: "/%0A" + path[1:],
    "a carriage return": lambda path: path + "%0D",
    "both": lambda path: path + "%0d%0a",
    "a zero": lambda path: path + "%00",
    "a tab": lambda path: path + "%09",
    "delete": lambda path: path + "%7F",
    "a line separator": lambda path: path + "%E2%80%A8",
    "a next line": lambda path: path + "%C2%85",
    "a newline, twice escaped": lambda path: path + "%250A",
    "a space": lambda path: path + "%20",
    "a slash": lambda path: path + "/",
    "two slashes": lambda path: "/" + path,
    "a dot": lambda path: "/." + path,
    "two dots": lambda path: "/health/.." + path,
    "two dots of a public folder": lambda path: "/web/.." + path,
    "escaped dots": lambda path: "/web/%2e%2e" + path,
    "an escaped slash": lambda path: "/web/..%2f" + path[1:],
    "a backslash": lambda path: "/web/..%5c" + path[1:],
    "upper case": str.upper,
    "an escaped letter": lambda path: path[:1] + "".join(f"%{ord(letter):02x}" for letter in path[1:]),
    "a parameter": lambda path: path + ";x=1",
    "a parameter with dots": lambda path: "/health/..;" + path,
    "a query": lambda path: path + "?x=1",
    "a fragment": lambda path: path + "#x",
    "a point": lambda path: path + ".",
    "overlong UTF-8": lambda path: path.replace("/", "/%c0%ae/", 1),
    "full width": lambda path: path[:1] + "%EF%BD%8D" + path[2:],
    "another host": lambda path: "http://elsewhere.example" + path,
    "no slash": lambda path: path[1:] or "*",
}
ALLOWED_NOTHING = (400, 401, 403, 404, 405)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A file of keys with one right each, and the keys by their right."""
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    return file, {right: add_key(file, right, [right]) for right in get_args(Right)}


@pytest.fixture(scope="module")
def app(tiny_bundle: Path, keys: tuple[Path, dict[str, str]]) -> FastAPI:
    """An application that wants keys."""
    return create_app(Settings(bundle=tiny_bundle, keys=keys[0]))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[httpx.Client]:
    """Its client."""
    with serving_app(app) as client:
        yield client


def status_of(connection: socket.socket, method: str, target: str, key: str | None) -> int:
    # A body of this type, even an empty one, is told from a picture wherever one is taken.
    head = f"{method} {target} HTTP/1.1\r\nHost: test\r\nConnection: keep-alive\r\nContent-Type: text/plain\r\n"
    connection.sendall((head + (f"X-API-Key: {key}\r\n" if key else "") + "\r\n").encode())
    with HTTPResponse(connection, method="HEAD" if method == "HEAD" else "GET") as response:
        response.begin()
        response.read()
        return response.status


@pytest.mark.parametrize("right", ["predict", "metrics", "admin", None])
def test_no_spelling_of_a_path_gives_more_than_the_table(
    client: httpx.Client, keys: tuple[Path, dict[str, str]], right: Right | None
) -> None:
    holes, answered = [], Counter[str]()
    for (path, required), (name, trick), method in itertools.product(RIGHTS.items(), TRICKS.items(), METHODS):
        if required is None and name != "as it is":
            continue
        with connected(client) as connection:
            status = status_of(connection, method, trick(path), keys[1].get(right or ""))
        is_reached = status not in ALLOWED_NOTHING
        answered[path] += is_reached
        if is_reached and required not in (None, right):
            holes.append((method, trick(path), status))
    assert holes == []
    # and each route is reached by whoever may: the walk would see a hole
    assert {path for path, count in answered.items() if count} == {
        path for path, required in RIGHTS.items() if required in (None, right)
    } - {"/predictions/x", "/predictions/x/picture"}  # which is 404, since nothing was predicted


def test_the_table_has_every_route(app: FastAPI) -> None:
    routes = set(app.openapi()["paths"]) | {"/", "/docs", "/openapi.json"}
    written = {path.replace("/x", "/{prediction_id}") for path in RIGHTS if not path.startswith("/web/")}
    assert written == routes


def test_nothing_but_public_files_goes_past_the_check_of_rights(app: FastAPI) -> None:
    """A route that FastAPI does not guard must be known here, and hold nothing of anyone."""

    def unguarded(routes: list[BaseRoute]) -> set[str]:
        found = set()
        for route in routes:
            if hasattr(route, "original_router"):
                found |= unguarded(route.original_router.routes)
            elif not isinstance(route, APIRoute):
                found.add(str(getattr(route, "path", route)))
        return found

    assert unguarded(app.routes) == {"/openapi.json", "/web"}


CONTROLS = [f"%{code:02X}" for code in [*range(32), 127]] + ["%C2%80", "%C2%9F", "%E2%80%A8", "%E2%80%A9"]


@pytest.mark.parametrize("path", ["/health/live{}", "/{}health/live", "/web/page.js{}", "/predictions/a{}b", "/{}"])
def test_a_path_with_a_control_character_is_refused(client: httpx.Client, path: str) -> None:
    for control in CONTROLS:
        with connected(client) as connection:
            connection.sendall(f"GET {path.format(control)} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            with HTTPResponse(connection) as response:
                response.begin()
                problem = json.loads(response.read())
        assert (response.status, problem["type"]) == (400, "urn:fusionlens:problem:malformed-target"), control


FOREIGN = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "https://elsewhere.example"},
    {"origin": "null"},
    {"origin": "https://elsewhere.example", "sec-fetch-site": "none"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_pages_of_other_sites_may_not_reload(
    client: httpx.Client, keys: tuple[Path, dict[str, str]], headers: dict[str, str]
) -> None:
    key = {"authorization": f"Bearer {keys[1]['admin']}"}
    assert "other sites" in assert_problem(client.post("/admin/reload", headers=headers | key), 403, "forbidden")
    own = {"origin": str(client.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    assert client.post("/admin/reload", headers=own | key).status_code == 200


def test_several_keys_are_none(client: httpx.Client, keys: tuple[Path, dict[str, str]]) -> None:
    both = {"authorization": f"Bearer {keys[1]['predict']}", "x-api-key": keys[1]["metrics"]}
    assert "several" in assert_problem(client.get("/metrics", headers=both), 401, "unauthorized")
    same = {"authorization": f"Bearer {keys[1]['metrics']}", "x-api-key": keys[1]["metrics"]}
    assert client.get("/metrics", headers=same).status_code == 200


def test_without_keys_nobody_reloads_by_any_spelling(tiny_bundle: Path) -> None:
    with serving(Settings(bundle=tiny_bundle)) as client:
        for name, trick in TRICKS.items():
            with connected(client) as connection:
                connection.settimeout(PATIENCE_S)
                assert status_of(connection, "POST", trick("/admin/reload"), None) in ALLOWED_NOTHING, name
