"""The OpenAPI document: committed as it is, whole, and true about errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import unified_diff
from typing import Any

import httpx
import pytest

from scripts.openapi import DOCUMENT, openapi_document
from tests.support.asking import PNG, png_bytes

ROUTES = {
    ("post", "/predict"),
    ("get", "/explain"),
    ("post", "/explain"),
    ("get", "/gradcam"),
    ("post", "/gradcam"),
    ("get", "/attention"),
    ("post", "/attention"),
    ("get", "/tokens"),
    ("post", "/tokens"),
    ("get", "/novelty"),
    ("post", "/novelty"),
    ("get", "/similar"),
    ("post", "/similar"),
    ("delete", "/predictions/{prediction_id}"),
    ("get", "/predictions/{prediction_id}/picture"),
    ("get", "/model"),
    ("get", "/health/live"),
    ("get", "/health/ready"),
    ("get", "/metrics"),
    ("post", "/admin/reload"),
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The application's document."""
    content: dict[str, Any] = json.loads(openapi_document())
    return content


def operations(document: dict[str, Any]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """Method and path of every operation, and what is said of it."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield (method, path), operation


def test_the_committed_document_is_the_applications() -> None:
    committed, current = DOCUMENT.read_text(encoding="utf-8"), openapi_document()
    changes = unified_diff(
        committed.splitlines(), current.splitlines(), "docs/openapi.json", "application", lineterm=""
    )
    if committed != current:
        pytest.fail("The API has changed. If it should, run `make openapi` and commit.\n" + "\n".join(changes), False)


def test_every_route_is_described(document: dict[str, Any]) -> None:
    described = dict(operations(document))
    assert described.keys() == ROUTES
    for operation in described.values():
        assert operation["description"] and operation["summary"]
        assert all(parameter["description"] for parameter in operation.get("parameters", []))
    assert len({operation["operationId"] for operation in described.values()}) == len(ROUTES)
    assert not {"HTTPValidationError", "ValidationError"} & document["components"]["schemas"].keys()


def test_every_field_of_an_answer_is_described(document: dict[str, Any]) -> None:
    fields = {
        f"{schema}.{name}": field
        for schema, content in document["components"]["schemas"].items()
        for name, field in content["properties"].items()
    }
    assert [name for name, field in fields.items() if "description" not in field] == []


def test_every_error_is_documented_as_a_problem(document: dict[str, Any]) -> None:
    found = set()
    for route, operation in operations(document):
        for status, response in operation["responses"].items():
            if status == "default" or status >= "400":
                assert response["content"] == {
                    "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
                }
                found.add((*route, status))
    assert {("post", "/predict", status) for status in ("400", "413", "415", "422", "429", "504")} <= found
    assert {("get", "/gradcam", status) for status in ("404", "410", "422")} <= found
    assert "Retry-After" in document["paths"]["/predict"]["post"]["responses"]["429"]["headers"]


def test_the_example_of_an_answer_has_the_shape_of_a_real_one(client: httpx.Client, document: dict[str, Any]) -> None:
    (example,) = document["components"]["schemas"]["PredictionAnswer"]["examples"]
    answer = client.post("/predict", content=png_bytes(), headers=PNG).json()

    def shape(content: Any) -> Any:
        if isinstance(content, dict):
            return {name: shape(value) for name, value in content.items()}
        return [shape(content[0])] if isinstance(content, list) and content else type(content)

    for content in (example, answer):  # of bundles with a trust part: see test_trust.py
        content.pop("trust")
        content.pop("trust_note", None)  # FastAPI leaves out what is null in an example
        for name in ("novelty", "similar"):
            content["links"].pop(name)
    assert shape(example) == shape(answer)
