"""A plugin of pytest: what does not hold behind Ray's proxy, which parses and buffers connections before us, and why.

These tests are run all the same, and the summary says which failed as expected (XFAIL) and which did not (XPASS).
"""

from __future__ import annotations

import pytest

NO_METRICS = "no /metrics of several replicas: each counts alone"
NOT_BEHIND_RAY = {
    "test_access.py::test_metrics_and_docs_can_be_switched_off": NO_METRICS,
    "test_schemathesis.py::test_every_route_does_what_the_document_says[GET /metrics]": NO_METRICS,
    "test_head.py::test_head_says_of_a_page_what_get_says_and_sends_no_body[/metrics]": NO_METRICS,
    "test_parameters.py::test_what_a_route_does_not_have_is_refused_everywhere[GET-/metrics]": NO_METRICS,
    "test_parameters.py::test_what_is_there_twice_is_refused[GET-/metrics]": NO_METRICS,
    "test_no_server_errors.py::test_no_header_whatever_breaks_the_service": (
        "Ray's proxy itself answers with 500 if an X-Request-ID is not UTF-8"
    ),
    "test_connections.py::test_headers_of_more_than_64_kb_are_refused": "Ray's proxy has limits of its own for headers",
    "test_logs.py::test_a_well_formed_request_id_is_kept_and_any_other_is_replaced": (
        "Ray's proxy adds an X-Request-ID of its own to every answer, and gives it to requests that have none"
    ),
    "test_uploads.py::test_an_endless_body_is_refused_while_it_arrives": (
        "Ray's proxy reads ahead of the replica: more of a body has been sent when it is refused"
    ),
    "test_uploads.py::test_a_declared_length_above_the_limit_is_refused_before_any_byte_of_it": (
        "Ray's proxy asks for the body (100 Continue) before a replica sees the request"
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = f"{item.path.name}::{item.name}"
        if reason := NOT_BEHIND_RAY.get(name) or NOT_BEHIND_RAY.get(name.partition("[")[0]):
            item.add_marker(pytest.mark.xfail(strict=False, reason=reason))
