"""HEAD tells of every page what GET would, and sends nothing of it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
import pytest

from app.server.provision import add_key
from app.settings import Settings
from scripts.openapi import DOCUMENT
from tests.api.test_metrics import samples
from tests.support import served_process as process
from tests.support.asking import LACKING, PNG, png_bytes, predict
from tests.support.serving import serving
from tests.support.waiting import PATIENCE_S, wait_until
from tests.support.wire import connected

PAGES = ("/", "/docs", "/openapi.json", "/web/page.js", "/web/style.css")
DOCUMENTED: dict[str, dict[str, object]] = json.loads(DOCUMENT.read_text(encoding="utf-8"))["paths"]
ALSO_GET = [path for path, methods in DOCUMENTED.items() if "get" in methods]
POST_ALONE = [path for path, methods in DOCUMENTED.items() if [*methods] == ["post"] and path != "/admin/reload"]
OF_ONE_ANSWER = {"date", "x-request-id"}


@pytest.fixture(scope="module")
def prediction_id(client: httpx.Client) -> str:
    """The id of a prediction that is asked about."""
    return str(predict(client, png_bytes())["prediction_id"])


def url_of(path: str, prediction_id: str) -> str:
    """What to ask for at a path of the document."""
    query = (
        "?prediction_id=" if path in ("/explain", "/gradcam", "/attention", "/tokens", "/novelty", "/similar") else ""
    )
    return path.replace("{prediction_id}", prediction_id) + query + (prediction_id if query else "")


def facts(response: httpx.Response, url: str) -> tuple[int, dict[str, str]]:
    """The status, and the headers that do not belong to one answer alone."""
    # The numbers that /metrics tells grow while it is asked for, and so does their length.
    not_compared = OF_ONE_ANSWER | ({"content-length"} if url == "/metrics" else set())
    return response.status_code, {name: value for name, value in response.headers.items() if name not in not_compared}


def test_there_are_pages_of_all_kinds() -> None:
    assert {"/model", "/health/live", "/explain", "/predictions/{prediction_id}/picture", "/metrics"} <= set(ALSO_GET)
    assert POST_ALONE == ["/predict"]


@pytest.mark.parametrize("path", [*PAGES, *ALSO_GET])
def test_head_says_of_a_page_what_get_says_and_sends_no_body(
    client: httpx.Client, prediction_id: str, path: str
) -> None:
    url = url_of(path, prediction_id)
    by_head = client.head(url)  # the first to ask for it: nothing is in a cache yet
    by_get = client.get(url)
    assert (by_get.status_code, bool(by_get.content)) == (422 if path in LACKING else 200, True)
    assert facts(by_head, url) == facts(by_get, url)
    assert {"content-type", "content-length"} <= set(by_head.headers) and by_head.content == b""


@pytest.mark.parametrize("path", ["/gradcam", "/predictions/{prediction_id}/picture", "/", "/web/page.js"])
def test_what_a_client_has_already_is_not_sent_by_head_either(
    client: httpx.Client, prediction_id: str, path: str
) -> None:
    url = url_of(path, prediction_id)
    etag = client.head(url).headers["etag"]
    assert etag == client.get(url).headers["etag"]
    answers = [client.request(method, url, headers={"if-none-match": etag}) for method in ("HEAD", "GET")]
    assert facts(answers[0], url) == facts(answers[1], url)


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("/nowhere", 404),
        ("/web/nothing.js", 404),
        ("/gradcam?prediction_id=never", 404),
        ("/predictions/never/picture", 404),
        ("/gradcam", 422),
        ("/explain?prediction_id=never&alpha=9", 422),
        *((path, 405) for path in POST_ALONE),
        ("/admin/reload", 403),  # who may not reload is told so, whatever the method
        ("/predictions/never", 405),
    ],
)
def test_errors_of_head_are_those_of_get(client: httpx.Client, url: str, status: int) -> None:
    by_head, by_get = client.head(url), client.get(url)
    assert by_head.status_code == status and by_head.content == b""
    assert facts(by_head, url) == facts(by_get, url)


def test_nothing_follows_the_headers_on_the_connection(client: httpx.Client, prediction_id: str) -> None:
    """A body that was sent after all would be taken for the next answer."""
    urls = ["/model", url_of("/gradcam", prediction_id), "/", "/web/page.js", "/nowhere", "/predict"]
    asked = "".join(f"HEAD {url} HTTP/1.1\r\nHost: test\r\n\r\n" for url in urls)
    last = "HEAD /health/live HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    with connected(client, (asked + last).encode()) as connection:
        sent = b"".join(iter(lambda: connection.recv(65_536), b""))
    *heads, rest = sent.split(b"\r\n\r\n")
    assert [int(head.split()[1]) for head in heads] == [200, 200, 200, 200, 404, 405, 200]
    assert rest == b"" and all(head.startswith(b"HTTP/1.1 ") for head in heads)


def test_metrics_count_head_by_the_template_of_its_route(tiny_bundle: Path) -> None:
    def counted() -> dict[tuple[str, ...], float]:
        found = samples(client).items()
        return {sample[1:]: value for sample, value in found if sample[:2] == ("fusionlens_requests_total", "HEAD")}

    with serving(Settings(bundle=tiny_bundle)) as client:
        prediction_id = predict(client, png_bytes())["prediction_id"]
        for path in ("/gradcam", "/predictions/{prediction_id}/picture", "/predict", "/nowhere", "/web/page.js"):
            client.head(url_of(path, prediction_id))
        wait_until(lambda: sum(counted().values()) == 5)  # a request is counted when its answer has been sent
        by_route = counted()
    assert by_route == {
        ("HEAD", "/gradcam", "200"): 1,
        ("HEAD", "/predictions/{prediction_id}/picture", "200"): 1,
        ("HEAD", "/predict", "405"): 1,
        ("HEAD", "none", "404"): 1,
        ("HEAD", "none", "200"): 1,
    }


def test_the_log_says_head_the_template_and_the_key(tiny_bundle: Path, tmp_path: Path) -> None:
    key = add_key(file := tmp_path / "keys.toml", "hospital", ["predict"])
    env = process.environment(
        process.ROOT, FUSIONLENS_LOG="json", FUSIONLENS_KEYS=str(file), FUSIONLENS_DRAIN_S="0",
        FUSIONLENS_BUNDLE=str(tiny_bundle),
    )  # fmt: skip
    with process.serving(tmp_path, env) as served:
        with httpx.Client(base_url=served.address, trust_env=False, headers={"x-api-key": key}) as client:
            links = client.post("/predict", content=png_bytes(), headers=PNG).json()["links"]
            client.head(links["picture"])
            client.head(links["gradcam"] + "&alpha=9")
            client.head("/predict")
        httpx.head(f"{served.address}/model", trust_env=False)
        served.process.send_signal(signal.SIGTERM)
        output, errors = served.process.communicate(timeout=PATIENCE_S)
    assert errors == ""
    lines = [json.loads(line) for line in output.splitlines()]
    assert [(line["method"], line["route"], line["status"], line["problem"], line["key"]) for line in lines[1:]] == [
        ("HEAD", "/predictions/{prediction_id}/picture", 200, None, "hospital"),
        ("HEAD", "/gradcam", 422, "bad-parameter", "hospital"),
        ("HEAD", "/predict", 405, "method-not-allowed", "hospital"),
        ("HEAD", "/model", 401, "unauthorized", None),
    ]
