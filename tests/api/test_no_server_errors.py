"""Whatever is sent, the answer is what was asked for or a problem of the sender's, and the service goes on.

Requests are drawn at random, others in every run. Failures are kept in `.hypothesis`, and tried first by the next run.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from random import Random
from typing import Any, NoReturn
from urllib.parse import quote, quote_from_bytes

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase
from PIL import Image

from app.api.problems import MEDIA_TYPE
from app.pictures.formats import SIGNATURES, readable_formats
from reliability.hostile import FAMILIES, drawn
from scripts.openapi import DOCUMENT
from tests.conftest import ROOT
from tests.pictures.test_bad_pictures import seeds, with_right_checksums
from tests.support.asking import PNG, png_bytes, predict
from tests.support.wire import connected

DOCUMENTED: dict[str, dict[str, Any]] = json.loads(DOCUMENT.read_text(encoding="utf-8"))["paths"]
OPERATIONS = [
    f"{method.upper()} {path}"
    for path, methods in DOCUMENTED.items()
    for method in methods
    if path not in ("/admin/reload", "/metrics")  # the first is for nobody here, the second takes no parameters
]
PICTURE = png_bytes()
# Not by derandomize and without a database, as hypothesis does in CI by default: each run looks elsewhere.
anew = settings(
    max_examples=60,
    derandomize=False,
    database=DirectoryBasedExampleDatabase(ROOT / ".hypothesis" / "examples"),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def prediction_id(client: httpx.Client) -> str:
    """The id of a prediction that is asked about."""
    return str(predict(client, PICTURE)["prediction_id"])


def no_number(text: str) -> NoReturn:
    raise AssertionError(f"{text} is no JSON")


def assert_answered(response: httpx.Response) -> None:
    """Check that this is what was asked for, or a problem that is not the service's."""
    asked = f"{response.request.method} {response.request.url} {response.request.headers}: {response.text[:1000]}"
    assert response.status_code < 500, asked
    media_type = response.headers.get("content-type", "")
    if response.status_code >= 400:
        assert media_type == MEDIA_TYPE, asked
        assert response.json()["status"] == response.status_code
        assert response.json()["detail"].endswith(".") and "Traceback" not in response.text, asked
    elif media_type == "application/json":
        json.loads(response.content, parse_constant=no_number)  # NaN and Infinity are none
    elif media_type == "application/x-npy":
        assert np.isfinite(np.load(io.BytesIO(response.content), allow_pickle=False)).all()
    elif media_type.startswith("image/"):
        Image.open(io.BytesIO(response.content), formats=["PNG", "JPEG"]).load()
    else:
        assert (response.status_code, response.content) in ((204, b""), (304, b"")), response.headers


def choices(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    """Values that the document allows, as far as it can say."""
    schema = next((one for one in schema.get("anyOf", ()) if one["type"] != "null"), schema) | {
        name: value for name, value in schema.items() if name in ("enum", "examples")
    }
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "boolean":
        return st.sampled_from(["true", "false"])
    least = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    most = schema.get("maximum", schema.get("exclusiveMaximum", 100))
    if schema["type"] == "integer":
        return st.one_of(st.integers(least, least + 20), st.integers(least, most)).map(str)
    if schema["type"] == "number":
        return st.floats(least, most).map(repr)
    return st.sampled_from([*map(str, schema.get("examples", ())), "benign", "malignant"])


# No surrogates: they have no bytes.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
whatever = st.one_of(
    texts,
    st.sampled_from(["", "\0", " ", "null", "None", "nan", "-nan", "inf", "-inf", "1e400", "-1e400", "1e-400", "-0.0"]),
    st.sampled_from(
        ["0x10", "0b1", "1_000", "٣", "½", "１", "1,5", "+1", "1e5", "true", "[]", "{}", "%s%n", "../..", "\ufeff1"]
    ),
    st.integers(-(10**400), 10**400).map(str),
    st.integers(200, 6000).map(lambda digits: "9" * digits),
    st.integers(-3, 3).map(str),
    st.floats().map(repr),
    st.tuples(st.sampled_from(["a", "é", "cnn,", "\0", "0."]), st.integers(100, 3000)).map(lambda p: p[0] * p[1]),
)
ODD = ("", "%00", "-1", "0", "nan", "inf", "1e400", "x", "%ff", "999999", "9" * 500, "%F0%9F%90%88")
encoded_values = st.one_of(
    st.sampled_from(ODD),
    whatever.map(lambda text: quote(text, safe="")),
    st.binary(max_size=20).map(lambda data: quote_from_bytes(data, safe="")),  # mostly no UTF-8
    st.sampled_from(["%", "%zz", "%u0041", "+", "a+b", "&", "=", ";", "#", "%00", "%0d%0a", "%ed%a0%80"]),
)


def queries(operation: str) -> st.SearchStrategy[str]:
    """Queries of an operation: its own parameters and others, with values of all kinds, and some of them twice."""
    method, _, path = operation.partition(" ")
    parameters = {
        parameter["name"]: parameter["schema"]
        for parameter in DOCUMENTED[path][method.lower()].get("parameters", ())
        if parameter["in"] == "query" and parameter["name"] != "prediction_id"
    }
    names = st.sampled_from([*parameters, "prediction_id", "x", ""])
    allowed = st.one_of(
        *(st.tuples(st.just(name), choices(schema).map(quote)) for name, schema in parameters.items()),
        *([] if parameters else [st.just(("x", "y"))]),
    )
    bad = st.tuples(st.one_of(names, names, names, texts.map(quote)), encoded_values)
    pairs = st.one_of(
        st.lists(allowed, max_size=4),
        st.builds(lambda some, one: [*some, one], st.lists(allowed, max_size=2), bad),  # only one fault, to come far
        st.lists(st.one_of(allowed, bad), max_size=6),
    )
    return pairs.map(lambda some: "&".join(f"{name}={value}" for name, value in some))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_parameter_whatever_breaks_the_service(client: httpx.Client, prediction_id: str, operation: str) -> None:
    method, _, path = operation.partition(" ")
    stored = any(
        parameter["name"] == "prediction_id" for parameter in DOCUMENTED[path][method.lower()].get("parameters", ())
    )
    in_path = "{" in path

    @anew
    @given(query=queries(operation), known=st.sampled_from([True, True, True, False]), other=encoded_values)
    def ask(query: str, known: bool, other: str) -> None:
        asked = prediction_id if known and method != "DELETE" else other
        url = path.replace("{prediction_id}", asked)
        if stored and not in_path:
            query = f"prediction_id={asked}&{query}"
        body = {"content": PICTURE, "headers": PNG} if method == "POST" else {}
        response = client.request(method, f"{url}?{query}", **body)  # type: ignore[arg-type]
        if in_path and response.is_redirect:
            return  # to the same path without a slash at its end
        assert_answered(response)

    ask()
    assert predict(client, PICTURE)["label"]


@pytest.mark.parametrize("path", ["/explain", "/gradcam", "/attention", "/tokens", "/novelty", "/similar"])
def test_no_odd_value_of_one_parameter_breaks_the_service(client: httpx.Client, prediction_id: str, path: str) -> None:
    """Each alone, so that no other fault is found first."""
    for parameter in DOCUMENTED[path]["get"]["parameters"]:
        for value in ODD:
            assert_answered(client.get(f"{path}?prediction_id={prediction_id}&{parameter['name']}={value}"))


# No control characters: a request that has any is no HTTP, and no client would send it.
header_values = st.one_of(
    st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=60).map(str.strip),
    st.sampled_from(
        ["", "*", '"', 'W/"', '"preview"', '""', ",", ";;;", "é", "a" * 9000, "gzip", "bytes=0-", "9" * 500]
    ),
)
content_types = st.one_of(
    header_values,
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["multipart/form-data", "Multipart/Form-Data", "multipart/mixed", "image/png", "text/plain"]),
        st.sampled_from(
            [" ; charset=utf-99", "; charset=", '; charset="', "; charset=utf-16", "; charset=idna", "; charset=é", ""]
        ),
        st.sampled_from(
            [
                "; boundary=x",
                '; boundary="x"',
                "; boundary=x; boundary=y",
                "; boundary=",
                "; BOUNDARY=x",
                "; boundary=é",
                "",
            ]
        ),
    ),
)
DISPOSITIONS = (
    'form-data; name="file"; filename="a"', 'form-data; name="_charset_"', 'form-data; name="é"', "form-data",
    'form-data; name="file"; filename*=utf-99\'\'a', 'form-data; name="file"; filename="\0"', "attachment", "", ";;=",
    'form-data; name="' + "n" * 5000 + '"',
)  # fmt: skip
fields = st.builds(
    lambda disposition, kind, value: (
        b"--x\r\nContent-Disposition: " + disposition.encode() + b"\r\nContent-Type: " + kind.encode("latin-1")
        + b"\r\n\r\n" + value + b"\r\n"
    ),
    st.sampled_from(DISPOSITIONS),
    st.sampled_from(["image/png", "text/plain; charset=utf-99", "", "é"]),
    st.one_of(st.sampled_from([PICTURE, b"utf-99", b"", b"--x--"]), st.binary(max_size=30)),
)  # fmt: skip


@settings(anew, max_examples=150)
@given(
    route=st.sampled_from(["/predict", "/explain", "/tokens", "/novelty", "/similar"]),
    content_type=content_types,
    body=st.one_of(st.lists(fields, max_size=4).map(lambda parts: b"".join([*parts, b"--x--\r\n"])), st.just(PICTURE)),
)
def test_no_form_whatever_breaks_the_service(client: httpx.Client, route: str, content_type: str, body: bytes) -> None:
    assert_answered(client.post(route, content=body, headers={b"content-type": content_type.encode("latin-1")}))


HEADERS = [
    *("if-none-match", "if-modified-since", "if-range", "accept", "accept-encoding", "content-type", "traceparent"),
    *("authorization", "x-api-key", "cookie", "origin", "x-request-id", "x-forwarded-for", "content-encoding"),
]
FILES = ("/", "/web/page.js", "/docs")


@settings(anew, max_examples=150)
@given(
    url=st.sampled_from(
        ["/gradcam?prediction_id=ID", "/attention?prediction_id=ID", "/predictions/ID/picture", "/model"]
    ),
    headers=st.dictionaries(st.sampled_from(HEADERS), header_values, max_size=4),
)
def test_no_header_whatever_breaks_the_service(
    client: httpx.Client, prediction_id: str, url: str, headers: dict[str, str]
) -> None:
    sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    assert_answered(client.get(url.replace("ID", prediction_id), headers=sent))


ranges = st.one_of(
    header_values,
    st.lists(
        st.tuples(
            st.sampled_from(["", "0", "5", "99999999", "-1", "9" * 300, "x"]),
            st.sampled_from(["", "0", "4", "9" * 300]),
        ),
        max_size=5,
    ).map(lambda some: "bytes=" + ",".join(f"{first}-{last}" for first, last in some)),
)


@settings(anew, max_examples=80)
@given(path=st.sampled_from(FILES), asked=ranges, method=st.sampled_from(["GET", "HEAD"]))
def test_no_range_of_a_file_breaks_the_service(client: httpx.Client, path: str, asked: str, method: str) -> None:
    response = client.request(method, path, headers=[(b"range", asked.encode("latin-1"))])
    assert response.status_code in (200, 206, 400, 416)


lengths = st.one_of(
    st.sampled_from(
        ["", "-1", "+5", "5, 5", "5,6", "0x10", "1e3", "5.0", "NaN", "\xb2", "\xb9\xb2", "٥", "５", "0", "00"]
    ),
    st.one_of(st.integers(10**8, 2**64 + 9), st.integers(10**8, 10**500)).map(str),
    st.integers(4000, 6000).map(lambda digits: "9" * digits),
    st.text(st.characters(codec="latin-1", exclude_characters="\0\r\n"), min_size=1, max_size=8).filter(
        lambda text: not text.strip().isdecimal()
    ),
)


@settings(anew, max_examples=60)
@given(declared=lengths, chunked=st.booleans())
def test_no_length_whatever_breaks_the_service(client: httpx.Client, declared: str, chunked: bool) -> None:
    head = "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Type: image/png\r\n" + f"Content-Length: {declared}\r\n"
    head += "Transfer-Encoding: chunked\r\n" * chunked
    with connected(client, head.encode() + b"\r\n" + b"0\r\n\r\n" * chunked) as connection:
        status = int(connection.makefile("rb").readline().split()[1])
    assert 400 <= status < 500


EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
Change = Callable[[bytearray], None]
places = st.one_of(st.floats(0, 1, exclude_max=True), st.floats(0, 0.1))  # more of them where the headers stand


def at(data: bytearray, place: float) -> int:
    return int(place * len(data))


def number(place: float, value: int, size: int, order: Any) -> Change:
    def change(data: bytearray) -> None:
        start = at(data, place)
        data[start : start + size] = (value % 256**size).to_bytes(size, order)

    return change


def flip(place: float, bit: int) -> Change:
    def change(data: bytearray) -> None:
        if data:
            data[at(data, place)] ^= 1 << bit

    return change


def cut(place: float, length: int) -> Change:
    def change(data: bytearray) -> None:
        del data[at(data, place) : at(data, place) + length]

    return change


def insert(place: float, inserted: bytes) -> Change:
    def change(data: bytearray) -> None:
        start = at(data, place)
        data[start:start] = inserted

    return change


def duplicate(place: float, length: int, times: int) -> Change:
    def change(data: bytearray) -> None:
        start = at(data, place)
        data[start:start] = data[start : start + length] * times

    return change


changes = st.lists(
    st.one_of(
        st.builds(flip, places, st.integers(0, 7)),
        st.builds(cut, places, st.integers(1, 200)),
        st.builds(insert, places, st.binary(min_size=1, max_size=20)),
        st.builds(duplicate, places, st.integers(1, 100), st.integers(1, 20)),
        st.builds(
            number, places, st.sampled_from(EXTREMES), st.sampled_from([2, 4]), st.sampled_from(["little", "big"])
        ),
    ),
    min_size=1,
    max_size=5,
)


def of_format(name: str) -> list[bytes]:
    """The drawn files of a format, in all its kinds."""
    found = [data for kind, data in (drawn() | seeds()).items() if name in kind]
    assert found
    return found


def post_damaged(client: httpx.Client, data: bytes) -> int:
    response = client.post("/predict", content=data, headers=PNG)
    assert_answered(response)
    return response.status_code


@pytest.mark.parametrize("format_name", readable_formats())
def test_no_damage_to_a_picture_breaks_the_service(client: httpx.Client, format_name: str) -> None:
    @settings(anew, max_examples=100)
    @given(whole=st.sampled_from(of_format(format_name)), some=changes, checked=st.booleans())
    def send(whole: bytes, some: list[Change], checked: bool) -> None:
        data = bytearray(whole)
        for change in some:
            change(data)
        post_damaged(client, with_right_checksums(bytes(data)) if format_name == "PNG" and checked else bytes(data))

    not_read = {415} - {415 for name in SIGNATURES if name == format_name}  # a service may read the six formats only
    assert {post_damaged(client, whole) for whole in of_format(format_name)} <= {200, 422} | not_read
    send()
    assert predict(client, PICTURE)["label"]


@pytest.mark.parametrize("family", [name for name in FAMILIES if "bomb" not in name])  # bombs have tests of their own
def test_no_hostile_upload_breaks_the_service(client: httpx.Client, family: str) -> None:
    @settings(anew, max_examples=15)
    @given(seed=st.integers(0, 2**32))
    def send(seed: int) -> None:
        post_damaged(client, FAMILIES[family](Random(seed), list(drawn().values())))

    send()
    assert predict(client, PICTURE)["label"]
