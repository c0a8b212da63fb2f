"""Below a prefix everything is as without one: for a proxy that removes the prefix, and for one that does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import httpx
import pytest
from pydantic import ValidationError

from app.api.keys.keys import Right
from app.server.provision import add_key
from app.settings import Settings
from scripts.openapi import DOCUMENT
from tests.api.test_rights import ALLOWED_NOTHING, RIGHTS, status_of
from tests.support.asking import PNG, assert_problem, links_of, png_bytes
from tests.support.serving import serving
from tests.support.wire import connected

PREFIX = "/lens"
OUTSIDE: dict[str, Callable[[str], str]] = {  # what the proxy sends on for a path that the client sees below the prefix
    "a proxy that removes it": lambda path: path.removeprefix(PREFIX),
    "a proxy that does not": lambda path: path,
}
proxies = pytest.mark.parametrize("proxy", OUTSIDE)


@pytest.fixture(scope="module")
def below(tiny_bundle: Path) -> Iterator[httpx.Client]:
    """A client of a service that is reached below the prefix."""
    origins = ("https://elsewhere.example",)
    with serving(Settings(bundle=tiny_bundle, root_path=PREFIX, cors_origins=origins)) as client:
        yield client


@proxies
def test_the_links_of_an_answer_lead_through_the_proxy(below: httpx.Client, proxy: str) -> None:
    sent = OUTSIDE[proxy]
    answered = below.post(sent(f"{PREFIX}/predict"), content=png_bytes(), headers=PNG)
    links = links_of(answered.json())
    assert {link.split("/")[1] for link in links} == {"lens"} and len(links) == 5
    for link in links:
        first = below.get(sent(link))
        assert first.status_code == 200
        assert first.headers.get("location", PREFIX).startswith(PREFIX)
        again = below.get(sent(link), headers={"if-none-match": first.headers["etag"]})
        assert again.status_code == 304


@proxies
def test_the_page_and_the_document_are_there(below: httpx.Client, proxy: str) -> None:
    sent = OUTSIDE[proxy]
    page = below.get(sent(f"{PREFIX}/"))
    assert page.status_code == 200 and 'src="web/app.js"' in page.text
    for file in ("web/app.js", "web/examples/drawn.webp", "docs", "health/ready"):
        assert below.get(sent(f"{PREFIX}/{file}")).status_code == 200
    document = below.get(sent(f"{PREFIX}/openapi.json")).json()
    assert document["servers"] == [{"url": PREFIX}]
    assert document["paths"].keys() == json.loads(DOCUMENT.read_text(encoding="utf-8"))["paths"].keys()


@proxies
def test_advice_leads_through_the_proxy_too(below: httpx.Client, proxy: str) -> None:
    sent = OUTSIDE[proxy]
    said = assert_problem(below.get(sent(f"{PREFIX}/nowhere")), 404, "not-found")
    assert f"GET {PREFIX}/nowhere" in said and f"{PREFIX}/docs" in said
    assert f"{PREFIX}/docs" in assert_problem(below.get(sent(f"{PREFIX}/model?x=1")), 422, "bad-parameter")
    said = assert_problem(below.put(sent(f"{PREFIX}/model")), 405, "method-not-allowed")
    assert "Use GET" in said


def test_the_prefix_alone_leads_to_the_page(below: httpx.Client) -> None:
    """The page's links are relative to the slash at its end."""
    for method in ("GET", "HEAD"):
        answered = below.request(method, PREFIX)
        assert (answered.status_code, answered.headers["location"]) == (307, f"{PREFIX}/")
    assert_problem(below.post(PREFIX), 404, "not-found")


def test_what_only_looks_like_the_prefix_is_none(below: httpx.Client) -> None:
    for path in (f"{PREFIX}es/model", f"{PREFIX}.model", f"{PREFIX}model", "/LENS/model", f"{PREFIX}/{PREFIX}/model"):
        assert_problem(below.get(path), 404, "not-found")


def test_metrics_count_routes_by_their_template(below: httpx.Client) -> None:
    below.get(f"{PREFIX}/model")
    text = below.get(f"{PREFIX}/metrics").text
    assert 'route="/model"' in text and PREFIX not in text.replace("fusionlens", "")


def test_no_prefix_opens_a_route_to_those_without_the_right(tiny_bundle: Path, tmp_path: Path) -> None:
    keys = {right: add_key(tmp_path / "keys.toml", right, [right]) for right in get_args(Right)}
    before = ["", PREFIX, PREFIX + PREFIX, f"/{PREFIX}", f"{PREFIX}/", f"{PREFIX}/.", f"{PREFIX}/web/.."]
    before += [f"/web/..{PREFIX}", "/%6cens", "/lens%2f..", "/health/live/..", f"{PREFIX}/health/live;"]
    reached, holes = set(), []
    with serving(Settings(bundle=tiny_bundle, keys=tmp_path / "keys.toml", root_path=PREFIX)) as client:
        for path, required in RIGHTS.items():
            for right in (None, *keys):
                for prefix in before:
                    method = "POST" if path in ("/predict", "/admin/reload") else "GET"
                    with connected(client) as connection:
                        status = status_of(connection, method, prefix + path, keys.get(right or ""))
                    if status not in ALLOWED_NOTHING:
                        reached.add((path, prefix))
                        if required not in (None, right):
                            holes.append((method, prefix + path, right, status))
    assert holes == []
    assert {(path, prefix) for path in ("/model", "/metrics", "/admin/reload") for prefix in ("", PREFIX)} <= reached


@pytest.mark.parametrize("prefix", ["/", "lens", "/lens/", "//lens", "/a b", "/é", "/lens\n", "/lens?x"])
def test_a_prefix_that_is_none_is_refused_at_the_start(prefix: str) -> None:
    with pytest.raises(ValidationError, match="root_path"):
        Settings(root_path=prefix)


def test_another_origin_may_send_and_read_what_it_needs(below: httpx.Client) -> None:
    wanted = "traceparent, tracestate, authorization, content-type, if-none-match, x-api-key"
    origin = {"origin": "https://elsewhere.example"}
    for method in ("GET", "HEAD", "POST", "DELETE"):
        asked = {**origin, "access-control-request-method": method, "access-control-request-headers": wanted}
        allowed = below.options(f"{PREFIX}/explain", headers=asked)
        assert allowed.status_code == 200, allowed.text
        assert set(wanted.split(", ")) <= set(allowed.headers["access-control-allow-headers"].lower().split(", "))
    exposed = set(below.get("/model", headers=origin).headers["access-control-expose-headers"].split(", "))
    assert {"ETag", "Retry-After", "FusionLens-Explanation", "traceparent", "X-Request-ID"} <= exposed
