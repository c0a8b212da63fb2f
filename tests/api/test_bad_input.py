"""Bad input: each gets its status and a sentence that says what to do, and the service goes on."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.conftest import MAX_UPLOAD_BYTES
from tests.support.asking import PNG, assert_problem, png_bytes, predict, scene
from tests.support.pictures import encoded, png

TEXT = b"This is not a picture at all. " * 20
PICTURE, JPEG = png_bytes(), encoded(scene(), "JPEG")
FORM = {"content-type": "multipart/form-data; boundary=line"}


def part(name: str = 'name="file"; filename="a.png"', body: bytes = PICTURE) -> bytes:
    """One part of a multipart body, written by hand."""
    return b"--line\r\nContent-Disposition: form-data; " + name.encode() + b"\r\n\r\n" + body + b"\r\n"


END = b"--line--\r\n"
TOO_MUCH = b"\x89PNG\r\n\x1a\n" + bytes(MAX_UPLOAD_BYTES)
UPLOADS: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "empty body": ({"content": b"", "headers": PNG}, 400, "empty-upload", "send the bytes"),
    "empty form": ({"content": b"", "headers": FORM}, 400, "empty-upload", "send one picture"),
    "empty file": ({"files": {"file": ("a.png", b"")}}, 400, "empty-upload", "send the bytes"),
    "no boundary": (
        {"content": part() + END, "headers": {"content-type": "multipart/form-data"}},
        *(400, "malformed-upload", "boundary"),
    ),
    "cut-off form": ({"content": part()[:-40], "headers": FORM}, 400, "malformed-upload", "send it again"),
    "form without its end": ({"content": part(), "headers": FORM}, 400, "malformed-upload", "send it again"),
    "garbage for a form": ({"content": TEXT, "headers": FORM}, 400, "malformed-upload", "multipart"),
    "part without a name": ({"content": part("x=1") + END, "headers": FORM}, 400, "malformed-upload", "name"),
    "two files": ({"content": part() + part() + END, "headers": FORM}, 400, "malformed-upload", "Send one file"),
    "two files, two names": (
        {"files": {"file": ("a.png", PICTURE), "other": ("b.png", PICTURE)}},
        *(400, "malformed-upload", "Send one file"),
    ),
    "too many bytes": ({"content": TOO_MUCH, "headers": PNG}, 413, "upload-too-large", "8,000,000"),
    "too many bytes in a form": ({"files": {"file": ("a", TOO_MUCH)}}, 413, "upload-too-large", "smaller"),
    "20,000 × 20,000 px": (
        {"content": png(20_000, 20_000, 8, 2, b""), "headers": PNG},
        *(413, "picture-too-large", "25 million pixels"),
    ),
    "too long a side": ({"content": png(16_385, 1, 8, 2, b""), "headers": PNG}, 413, "picture-too-large", "16384 px"),
    "text named .jpg": ({"files": {"file": ("a.jpg", TEXT, "image/jpeg")}}, 415, "unsupported-media-type", "JPEG, PNG"),
    "text said to be a picture": ({"content": TEXT, "headers": PNG}, 415, "unsupported-media-type", "JPEG, PNG"),
    "a picture said to be text": (
        {"content": PICTURE, "headers": {"content-type": "text/plain"}},
        *(415, "unsupported-media-type", "image/*"),
    ),
    "no content type": ({"content": TEXT}, 415, "unsupported-media-type", "no content type"),
    "form of the other kind": ({"data": {"file": "a"}}, 415, "unsupported-media-type", "multipart/form-data"),
    "JSON": ({"json": {"file": "a"}}, 415, "unsupported-media-type", "multipart/form-data"),
    "ICO": ({"files": {"file": ("a.ico", encoded(scene(), "ICO"))}}, 415, "unsupported-media-type", "send JPEG"),
    "PPM": ({"files": {"file": ("a.ppm", encoded(scene(), "PPM"))}}, 415, "unsupported-media-type", "send JPEG"),
    "PSD": ({"files": {"file": ("a.psd", b"8BPS\0\1" + TEXT)}}, 415, "unsupported-media-type", "send JPEG"),
    "sound in WebP's container": (
        {"files": {"file": ("a.webp", b"RIFF\0\1\0\0WAVE" + TEXT)}},
        *(415, "unsupported-media-type", "send JPEG"),
    ),
    "cut-off JPEG": ({"content": JPEG[: len(JPEG) // 2], "headers": PNG}, 422, "unreadable-picture", "whole file"),
    "cut-off PNG": ({"content": PICTURE[:-200], "headers": PNG}, 422, "unreadable-picture", "whole file"),
    "nothing but a header": ({"content": JPEG[:4], "headers": PNG}, 422, "unreadable-picture", "whole file"),
    "damaged PNG": (
        {"content": PICTURE[:100] + bytes(40) + PICTURE[140:], "headers": PNG},
        *(422, "unreadable-picture", "damaged"),
    ),
    "file in another field": ({"files": {"picture": ("a.png", PICTURE)}}, 422, "missing-field", "'file'"),
    "text in the field": ({"content": part('name="file"') + END, "headers": FORM}, 422, "missing-field", "no file"),
    "form without parts": ({"content": END, "headers": FORM}, 422, "missing-field", "'file'"),
}
PARAMETERS: dict[str, tuple[str, str]] = {
    "gradcam?target=cat": ("bad-parameter", "choose one of benign, malignant"),
    "gradcam?target=": ("bad-parameter", "choose one of benign, malignant"),
    "gradcam?branch=resnet": ("bad-parameter", "'fusion', 'cnn', 'swin' or 'vit'"),
    "gradcam?branch=vit": ("not-offered", "choose one of fusion, cnn, swin"),
    "gradcam?method=magic": ("bad-parameter", "choose one of gradcam"),
    "gradcam?colormap=rainbow": ("bad-parameter", "choose one of viridis"),
    "gradcam?format=gif": ("bad-parameter", "'png', 'json' or 'npy'"),
    "gradcam?alpha=1.5": ("bad-parameter", "less than or equal to 1"),
    "gradcam?alpha=-0.1": ("bad-parameter", "greater than or equal to 0"),
    "gradcam?alpha=half": ("bad-parameter", "valid number"),
    "gradcam?alpha=nan": ("bad-parameter", "alpha"),
    "gradcam?alpha_max=nan": ("bad-parameter", "alpha_max"),
    "gradcam?clip_low=nan": ("bad-parameter", "clip_low"),
    "gradcam?alpha=0.5&alpha_min=0.1": ("bad-parameter", "either alpha, or alpha_min and alpha_max"),
    "gradcam?alpha_min=0.9&alpha_max=0.1": ("bad-parameter", "alpha_min not above alpha_max"),
    "gradcam?clip_low=60&clip_high=40": ("bad-parameter", "lower one first"),
    "gradcam?clip_low=50&clip_high=50": ("bad-parameter", "lower one first"),
    "gradcam?clip_high=101": ("bad-parameter", "less than or equal to 100"),
    "gradcam?opactiy=0.5": ("bad-parameter", "no parameter 'opactiy'"),
    "gradcam?query=1": ("bad-parameter", "no parameter 'query'"),
    "gradcam?format=json&colormap=rainbow": ("bad-parameter", "choose one of viridis"),
    "attention?query=16": ("bad-parameter", "0 to 15"),
    "attention?head=2": ("bad-parameter", "0 to 1"),
    "attention?query=-1": ("bad-parameter", "greater than or equal to 0"),
    "attention?head=first": ("bad-parameter", "valid integer"),
    "attention?alpha=2": ("bad-parameter", "less than or equal to 1"),
}
ROUTES: dict[str, tuple[int, str, str]] = {
    "GET /gradcam": (422, "bad-parameter", "prediction_id"),
    "GET /attention": (422, "bad-parameter", "prediction_id"),
    "GET /gradcam?prediction_id=AAAAAAAAAAAAAAAAAAAAAA": (404, "unknown-prediction", "/predict"),
    "GET /attention?prediction_id=..%2F..%2Fetc%2Fpasswd": (404, "unknown-prediction", "/predict"),
    "GET /gradcam?prediction_id=%00%ff%F0%9F%90%88": (404, "unknown-prediction", "/predict"),
    "DELETE /predictions/AAAAAAAAAAAAAAAAAAAAAA": (404, "unknown-prediction", "/predict"),
    "DELETE /predictions/": (404, "not-found", "/docs"),
    "GET /nowhere": (404, "not-found", "/docs"),
    "GET /web/%2e%2e/main.py": (404, "not-found", "/docs"),
    "GET /web/": (404, "not-found", "/docs"),
    "GET /predict": (405, "method-not-allowed", "Use POST"),
    "POST /model": (405, "method-not-allowed", "Use GET"),
    "GET /predictions/AAAAAAAAAAAAAAAAAAAAAA": (405, "method-not-allowed", "Use DELETE"),
}


@pytest.fixture(scope="module")
def prediction_id(client: httpx.Client) -> str:
    """The id of a prediction that good requests and bad parameters are tried on."""
    return str(predict(client, PICTURE)["prediction_id"])


@pytest.mark.parametrize("fault", UPLOADS)
def test_a_bad_upload_is_refused_by_every_route_that_takes_one(client: httpx.Client, fault: str) -> None:
    request, status, name, advice = UPLOADS[fault]
    for route in ("/predict", "/gradcam", "/attention"):
        assert advice in assert_problem(client.post(route, **request), status, name)
    assert predict(client, PICTURE)["label"]


@pytest.mark.parametrize("asked", PARAMETERS)
def test_a_bad_parameter_is_refused_with_what_is_allowed(client: httpx.Client, prediction_id: str, asked: str) -> None:
    name, advice = PARAMETERS[asked]
    stored = client.get(f"/{asked}&prediction_id={prediction_id}")
    sent_along = client.post(f"/{asked}", content=PICTURE, headers=PNG)
    assert assert_problem(stored, 422, name) == assert_problem(sent_along, 422, name)
    assert advice in stored.json()["detail"]
    assert client.get(f"/gradcam?prediction_id={prediction_id}").status_code == 200


@pytest.mark.parametrize("asked", ["gradcam?target=nothing", "gradcam?alpha_min=0.9", "attention?colormap=pink"])
def test_a_bad_parameter_is_found_before_the_picture_is_looked_at(client: httpx.Client, asked: str) -> None:
    assert_problem(client.post(f"/{asked}", content=b"no picture", headers=PNG), 422, "bad-parameter")


@pytest.mark.parametrize("asked", ROUTES)
def test_what_is_not_there_is_said_to_be_so(client: httpx.Client, prediction_id: str, asked: str) -> None:
    status, name, advice = ROUTES[asked]
    response = client.request(*asked.split())
    assert advice in assert_problem(response, status, name)
    assert ("allow" in response.headers) is (status == 405)
    assert client.get(f"/gradcam?prediction_id={prediction_id}").status_code == 200


def test_all_faults_of_one_request_are_named_together(client: httpx.Client, prediction_id: str) -> None:
    response = client.get(f"/gradcam?prediction_id={prediction_id}&alpha=2&branch=resnet&zoom=3")
    detail = assert_problem(response, 422, "bad-parameter")
    assert all(name in detail for name in ("alpha", "branch", "'zoom'"))


bodies = st.lists(st.sampled_from([part(), END, part("name=file"), b"--line", b"\r\n\r\n", b"--", b"\0\xff"])).map(
    b"".join
)
content_types = st.sampled_from(
    [
        "image/png",
        "image/",
        "multipart/form-data; boundary=line",
        'multipart/form-data; boundary="',
        "multipart/form-data; boundary=é; charset=utf-7",
    ]
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies, content_type=content_types)
def test_no_body_whatever_breaks_the_service(client: httpx.Client, body: bytes, content_type: str) -> None:
    response = client.post("/predict", content=body, headers={b"content-type": content_type.encode("latin-1")})
    if response.status_code != 200:
        assert 400 <= response.status_code < 500 and response.json()["detail"], response.text
