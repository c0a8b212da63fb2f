"""What the OpenAPI document says is what the service does: requests drawn from the document, with all of its checks.

The service is a real one on a socket. The document is the committed one, which test_openapi.py holds to be its own.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case as AnyCase
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
)

from scripts.openapi import DOCUMENT
from tests.support.asking import LACKING, PNG, png_bytes, predict

Case = AnyCase[Any]
EXPLANATIONS = ("/gradcam", "/attention", "/tokens", "/novelty", "/similar")
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # schemathesis does
documented = schemathesis.openapi.from_dict(json.loads(DOCUMENT.read_text(encoding="utf-8")))
drawn = settings(
    max_examples=25, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


def excluded(case: Case) -> list[CheckFunction]:
    """The checks that do not hold for a request, whoever is right."""
    checks: list[CheckFunction] = []
    if case.operation.body:
        # To a schema a picture is any string, so most strings that it calls valid are no pictures, and are refused;
        # and a body that breaks the schema, with a field more, may be a picture all the same.
        checks += [positive_data_acceptance, negative_data_rejection]
    if case.path in EXPLANATIONS:
        # No schema says what parameters say of each other, such as alpha or alpha_min, nor the model's class names.
        checks.append(positive_data_acceptance)
    if case.path == "/admin/reload":
        checks.append(unsupported_method)  # who may not reload is told so, whatever the method
    return checks


@documented.parametrize()
@drawn
def test_every_route_does_what_the_document_says(client: httpx.Client, case: Case) -> None:
    case.call_and_validate(base_url=str(client.base_url), excluded_checks=excluded(case))


@pytest.mark.parametrize("path", [path for path in EXPLANATIONS if path not in LACKING])
def test_explanations_of_a_prediction_are_what_the_document_says(client: httpx.Client, path: str) -> None:
    prediction_id, statuses = predict(client, png_bytes())["prediction_id"], Counter[int]()

    @drawn
    @given(case=documented[path]["GET"].as_strategy(), with_class=st.sampled_from([None, "benign", "malignant"]))
    def ask(case: Case, with_class: str | None) -> None:
        case.query |= {"prediction_id": prediction_id, "target": with_class}
        case.query = {name: value for name, value in case.query.items() if value is not None and name != "against"}
        response = case.call_and_validate(base_url=str(client.base_url), excluded_checks=excluded(case))
        statuses[response.status_code] += 1

    ask()
    assert statuses[200] >= 5 and statuses.keys() <= {200, 422}, statuses


def test_a_prediction_is_forgotten_as_the_document_says(client: httpx.Client) -> None:
    operation = documented["/predictions/{prediction_id}"]["DELETE"]
    prediction_id = predict(client, png_bytes())["prediction_id"]
    for expected in (204, 404):
        case = operation.Case(path_parameters={"prediction_id": prediction_id})
        assert case.call_and_validate(base_url=str(client.base_url)).status_code == expected


@pytest.mark.parametrize("query", ["clip_low=20", "clip_high=80"])
def test_one_percentile_alone_is_taken(client: httpx.Client, query: str) -> None:
    assert client.post(f"/gradcam?{query}", content=png_bytes(), headers=PNG).status_code == 200


@pytest.mark.parametrize("path", EXPLANATIONS)
def test_a_method_that_a_path_has_not_is_told_those_it_has(client: httpx.Client, path: str) -> None:
    assert set(client.put(path).headers["allow"].split(", ")) == {"GET", "POST"}
