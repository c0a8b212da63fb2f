"""A parameter means the same in the query and in a form, and what a route does not have is refused in both places."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.openapi import DOCUMENT
from tests.support.asking import LACKING, PNG, assert_problem, png_bytes, predict

DOCUMENTED: dict[str, dict[str, Any]] = json.loads(DOCUMENT.read_text(encoding="utf-8"))["paths"]
OPERATIONS = [(method.upper(), path) for path, methods in DOCUMENTED.items() for method in methods]
UPLOADS = [path for method, path in OPERATIONS if method == "POST" and path != "/admin/reload"]
PICTURE = png_bytes()
# Of all kinds: names, numbers, switches, allowed ones and not.
VALUES = {
    **{"format": ("json", "npy", "png", "gif"), "target": ("benign", "malignant", "cat", ""), "against": ("benign",)},
    **{
        "alpha": ("0.3", "2", "nan"),
        "alpha_min": ("0.1", "x"),
        "alpha_max": ("0.9",),
        "size": ("64", "4000", "1", "1.5"),
    },
    **{"clip_low": ("10",), "clip_high": ("90", "-1"), "contour": ("0.5", "1"), "threshold": ("0.2", "1")},
    **{
        "colormap": ("jet", "pink"),
        "branch": ("cnn", "swin", "vit"),
        "method": ("gradcam++", "eigencam", "raw", "gradient"),
    },
    **{
        "fuse": ("max",),
        "detail": ("fine", "coarse"),
        "compare": ("cnn,swin", "cnn,cnn"),
        "layer": ("cross", "swin", "x"),
    },
    **{"query": ("3", "99", "-1"), "head": ("0", "9"), "whole": ("true", "0", "maybe"), "token_stage": ("4", "5", "0")},
    "coverage": ("0.9", "0.4", "nan"),
    "k": ("5", "0", "1.5"),
    "nonsense": ("1",),
}


def parameters_of(path: str) -> set[str]:
    return {parameter["name"] for parameter in DOCUMENTED[path]["post"].get("parameters", ())}


def form_of(path: str) -> dict[str, Any]:
    content: dict[str, Any] = DOCUMENTED[path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    return content


def sent(client: httpx.Client, path: str, query: Any = None, form: Any = None, name: str = "file") -> httpx.Response:
    return client.post(path, params=query, data=form, files={name: ("a.png", PICTURE)})


def facts(response: httpx.Response) -> tuple[Any, ...]:
    """What is compared. Not the numbers of an answer, which may differ by rounding."""
    kept = response.json() if response.status_code != 200 else response.headers.get("fusionlens-explanation")
    return response.status_code, response.headers["content-type"], kept


@pytest.mark.parametrize("path", UPLOADS)
def test_the_document_has_the_same_parameters_in_both_places(path: str) -> None:
    form = form_of(path)
    assert set(form["properties"]) == parameters_of(path) | {"file"} and form["additionalProperties"] is False
    assert parameters_of(path) <= set(VALUES)


@pytest.mark.parametrize("path", [path for path in UPLOADS if parameters_of(path)])
def test_a_parameter_is_the_same_wherever_it_is_sent(client: httpx.Client, path: str) -> None:
    names = sorted(parameters_of(path) | {"nonsense"})
    statuses = set()

    @settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        given=st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True).flatmap(
            lambda some: st.fixed_dictionaries({name: st.sampled_from(VALUES[name]) for name in some})
        ),
        in_form=st.sets(st.sampled_from(names)),
    )
    def ask(given: dict[str, str], in_form: set[str]) -> None:
        by_query = sent(client, path, query=given)
        form = {name: value for name, value in given.items() if name in in_form}
        mixed = sent(client, path, query={name: given[name] for name in given if name not in form}, form=form)
        by_form = sent(client, path, form=given)
        statuses.add(by_query.status_code)
        assert facts(by_query) == facts(by_form), given
        # What is wrong in the query is told before the form is looked at.
        assert mixed.status_code == by_query.status_code and (
            mixed.status_code != 200 or facts(mixed) == facts(by_query)
        )

    ask()
    assert statuses == ({422} if path in LACKING else {200, 422})


WRITTEN = {
    **{"size": ("3_00", "300.0", "3e2", "３００", "0x40", "+300"), "alpha": ("1_0e-1", "٠.٥", "0x1p-1", "inf", "5e")},
    **{"clip_low": ("1_0",), "contour": ("0_0.5",), "query": ("1_0", "1.0"), "head": ("0.0",), "token_stage": ("4.0",)},
    **{"coverage": ("0.7_5", "٠.9", "9e-1_0"), "k": ("1_0", "5.0", "٥")},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_numbers_are_written_in_plain_digits(client: httpx.Client, name: str) -> None:
    path = next(path for path in UPLOADS if name in parameters_of(path))
    for value in WRITTEN[name]:
        for query, form in (({name: value}, None), (None, {name: value})):
            refused = sent(client, path, query, form)
            assert "in plain digits" in assert_problem(refused, 422, "bad-parameter"), value


def test_blanks_in_a_form_stand_for_no_plus_signs(client: httpx.Client) -> None:
    for path in ("/explain", "/gradcam"):
        typed = client.post(f"{path}?method=gradcam++&format=json", files={"file": ("a.png", PICTURE)})
        assert typed.json()["method"] == "gradcam++"
        assert sent(client, path, form={"method": "gradcam++", "format": "json"}).json()["method"] == "gradcam++"
        assert_problem(sent(client, path, form={"method": "gradcam  "}), 422, "bad-parameter")
        beside = client.post(f"{path}?method=gradcam++", data={"format": "json"}, files={"file": ("a.png", PICTURE)})
        assert beside.json()["method"] == "gradcam++"


@pytest.mark.parametrize(("method", "path"), [one for one in OPERATIONS if one[1] != "/admin/reload"])
def test_what_a_route_does_not_have_is_refused_everywhere(client: httpx.Client, method: str, path: str) -> None:
    identity = predict(client, PICTURE)["prediction_id"]
    query = {"nonsense": "1"} | ({"prediction_id": identity} if method == "GET" and path in UPLOADS else {})
    url = path.replace("{prediction_id}", identity)
    body = {"content": PICTURE, "headers": PNG} if method == "POST" else {}
    refused = client.request(method, url, params=query, **body)  # type: ignore[arg-type]
    assert "'nonsense'" in assert_problem(refused, 422, "bad-parameter")
    if method == "POST":
        assert "'nonsense'" in assert_problem(sent(client, path, form={"nonsense": "1"}), 422, "bad-parameter")
    assert client.get("/explain", params={"prediction_id": identity}).status_code == 200, "it was forgotten after all"


@pytest.mark.parametrize(("method", "path"), [one for one in OPERATIONS if one[1] != "/admin/reload"])
def test_what_is_there_twice_is_refused(client: httpx.Client, method: str, path: str) -> None:
    has_some = DOCUMENTED[path][method.lower()].get("parameters") and "{" not in path
    url = path.replace("{prediction_id}", predict(client, PICTURE)["prediction_id"])
    for name in ("format", "prediction_id"):
        refused = client.request(method, url, params=[(name, "a"), (name, "a")])
        said = "in the query 2 times" if has_some else "no parameter"
        assert repr(name) in (told := assert_problem(refused, 422, "bad-parameter")) and said in told


@pytest.mark.parametrize(("method", "path"), [one for one in OPERATIONS if "{" in one[1]])
def test_a_prediction_that_is_not_there_is_told_first(client: httpx.Client, method: str, path: str) -> None:
    refused = client.request(method, path.replace("{prediction_id}", "never"), params={"x": "1"})
    assert_problem(refused, 404, "unknown-prediction")


@pytest.mark.parametrize("path", UPLOADS)
def test_a_form_has_one_picture_and_each_field_once(client: httpx.Client, path: str) -> None:
    twice = sent(client, path, form={"format": ["json", "json"]})
    assert "'format' is in the form 2 times" in assert_problem(twice, 422, "bad-parameter")
    beside = sent(client, path, form={"file": "a.png"})
    assert "'file' is in the form 2 times" in assert_problem(beside, 422, "bad-parameter")
    assert "'file'" in assert_problem(sent(client, path, name="picture"), 422, "missing-field")
    two = client.post(path, files=[("file", ("a.png", PICTURE)), ("other", ("b.png", PICTURE))])
    assert "one file" in assert_problem(two, 400, "malformed-upload")
    if parameters_of(path):
        name = min(parameters_of(path))
        both = sent(client, path, query={name: VALUES[name][0]}, form={name: VALUES[name][0]})
        assert "in the query and in the form" in assert_problem(both, 422, "bad-parameter")


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/web/page.js"])
def test_links_to_pages_may_carry_anything(client: httpx.Client, path: str) -> None:
    assert client.get(path, params={"utm_source": "news"}).status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("content", [b'{"target": "benign"}', b"target=benign"])
def test_a_body_where_none_is_read_is_refused(client: httpx.Client, method: str, content: bytes) -> None:
    stored = predict(client, png_bytes())["prediction_id"]
    answer = client.request(method, "/explain", params={"prediction_id": stored}, content=content)
    assert answer.status_code == 422
    if method == "GET":
        assert "leave out the body" in assert_problem(answer, 422, "bad-parameter")
    assert client.get("/explain", params={"prediction_id": stored}).status_code == 200
