"""What the client returns is what the service answers: every field of the document, and every value."""

from __future__ import annotations

import asyncio
import inspect
import json
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import httpx
import pytest
from fusionlens_client import AsyncClient, Client, Drawing, Prediction, UnexpectedAnswer, answers
from fusionlens_client.decoding import wire_names

from tests.support.asking import png_bytes
from tests.support.client_json import as_json
from tests.support.scripted_server import Answer, scripted
from tests.support.served_process import ROOT

CLASSES: dict[str, type] = {
    "ClassExplanation": answers.ClassExplanation,
    "ExplanationAnswer": answers.ExplanationAnswer,
    "Health": answers.Health,
    "Legend": answers.Legend,
    "Links": answers.Links,
    "ModelCard": answers.ModelCard,
    "ModelVersion": answers.ModelVersion,
    "PictureInfo": answers.PictureInfo,
    "PredictionAnswer": answers.PredictionAnswer,
    "Provenance": answers.Provenance,
    "Rectangle": answers.Rectangle,
    "Share": answers.Share,
    "SimilarAnswer": answers.SimilarCases,
    "SimilarCase": answers.SimilarCase,
    "TrustAnswer": answers.Trust,
    "TrustReason": answers.Reason,
}
# Dicts in the client, its exceptions, and the answer of a route that is for operators.
WITHOUT_A_CLASS = {"ClassProbability", "LabelShare", "Problem", "Reloaded"}
# Questions that the client does not ask: their answers are not one map.
NOT_ASKED = {"/explain": {"compare"}, "/attention": {"whole"}}
DEPTHS = range(900, 1000, 5)  # of brackets, about as many as Python reads
DOCUMENT: dict[str, Any] = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
SCHEMAS = DOCUMENT["components"]["schemas"]


def test_every_schema_of_an_answer_has_a_class() -> None:
    assert SCHEMAS.keys() == CLASSES.keys() | WITHOUT_A_CLASS


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_every_field_of_its_schema(name: str) -> None:
    assert {*wire_names(CLASSES[name]).values()} == SCHEMAS[name]["properties"].keys()


@pytest.mark.parametrize("name", CLASSES)
def test_what_may_be_null_may_be_none(name: str) -> None:
    hints = get_type_hints(CLASSES[name], include_extras=True)
    for field, wire in wire_names(CLASSES[name]).items():
        hint = get_args(hints[field])[0] if get_origin(hints[field]) is Annotated else hints[field]
        may_be_null = {"type": "null"} in SCHEMAS[name]["properties"][wire].get("anyOf", [])
        assert (type(None) in get_args(hint)) is may_be_null, f"{name}.{wire}"


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/explain", Prediction.explain),
        ("/attention", Prediction.attention),
        ("/tokens", Prediction.tokens),
        ("/novelty", Prediction.novelty),
        ("/similar", Prediction.similar),
    ],
)
def test_a_method_has_every_parameter_of_its_route(path: str, method: Any) -> None:
    offered = {one["name"] for one in DOCUMENT["paths"][path]["get"]["parameters"]} - {"prediction_id"}
    if path != "/similar":
        drawn = {one.name for one in fields(Drawing)}
        assert drawn < offered
        offered -= drawn | {"format"} | NOT_ASKED.get(path, set())
    assert inspect.signature(method).parameters.keys() - {"self"} == offered


@pytest.mark.parametrize("which", ["service", "plain_service"])
def test_a_prediction_has_every_value_of_the_answer(which: str, request: pytest.FixtureRequest) -> None:
    raw: httpx.Client = request.getfixturevalue(which)
    response = raw.post("/predict", files={"file": png_bytes()})
    answer = response.json()
    assert (answer["trust"] is not None) == (which == "service")
    with scripted(Answer(body=response.content)) as server, Client(server.address) as client:
        prediction = client.predict(png_bytes())
    assert as_json(prediction) == answer
    assert prediction.probabilities[prediction.label] == max(prediction.probabilities.values())


def test_a_prediction_of_a_real_service_is_that_of_plain_http(client: Client, service: httpx.Client) -> None:
    own, raw = as_json(client.predict(png_bytes())), service.post("/predict", files={"file": png_bytes()}).json()
    for of_one in ("prediction_id", "expires_at", "timings_ms", "links"):
        assert own.pop(of_one) != raw.pop(of_one)
    assert own == raw


def test_coverage_is_asked_for(client: Client, service: httpx.Client) -> None:
    raw = service.post("/predict", params={"coverage": 0.7}, files={"file": png_bytes()}).json()
    own = as_json(client.predict(png_bytes(), coverage=0.7))
    assert own["trust"] == raw["trust"] and own["trust"]["coverage"] == 0.7


QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "explain": ("/explain", {}),
    "a sign that a URL escapes": ("/explain", {"method": "gradcam++", "target": "benign"}),
    "every parameter": (
        "/explain",
        {"method": "gradcam", "target": "benign", "against": "malignant", "fuse": "max", "detail": "fine"},
    ),
    "a branch": ("/explain", {"branch": "cnn"}),
    "every class": ("/explain", {"target": "*"}),
    "attention": ("/attention", {"query": 1, "head": 0, "layer": "cross"}),
    "attention and gradient": ("/attention", {"method": "gradient", "target": "benign", "against": "malignant"}),
    "tokens": ("/tokens", {"target": "malignant"}),
    "novelty": ("/novelty", {}),
    "fine novelty": ("/novelty", {"detail": "fine"}),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_heatmap_has_every_value_of_the_answer(client: Client, service: httpx.Client, question: str) -> None:
    path, query = QUESTIONS[question]
    prediction = client.predict(png_bytes())
    response = service.get(path, params={"prediction_id": prediction.prediction_id, "format": "json", **query})
    heatmap = getattr(prediction, path[1:])(**query)
    assert as_json(heatmap) == response.json() == heatmap.answer
    assert (heatmap.array.dtype, heatmap.array.shape) == ("float32", heatmap.shape)


def test_similar_cases_are_those_of_the_service(client: Client, service: httpx.Client) -> None:
    prediction = client.predict(png_bytes())
    for k in (3, 5):
        raw = service.get("/similar", params={"prediction_id": prediction.prediction_id, "k": k}).json()
        assert as_json(prediction.similar(k)) == raw and len(raw["cases"]) == k
    assert prediction.similar() == prediction.similar(5)


def test_the_card_and_the_health_are_those_of_the_service(client: Client, service: httpx.Client) -> None:
    assert as_json(client.model()) == service.get("/model").json()
    assert as_json(client.live()) == service.get("/health/live").json()
    assert as_json(client.ready()) == service.get("/health/ready").json()


def test_fields_that_the_client_does_not_know_are_ignored() -> None:
    with scripted(Answer(body=b'{"status": "live", "mood": "fine"}')) as server, Client(server.address) as client:
        assert client.live() == answers.Health("live")


@pytest.mark.parametrize(
    ("body", "media_type", "phrase"),
    [
        (b"<html>Welcome</html>", "text/html", "did not answer with JSON"),
        (b"[1]", "application/json", "did not answer with JSON"),
        (b"{}", "application/json", "no 'status'"),
        (b'{"status": 5}', "application/json", "5 as 'status'"),
        (b"[" * 200_000, "application/json", "did not answer with JSON"),
        (b'{"status": ' * 200_000, "application/json", "did not answer with JSON"),
        *((b'{"status": ' + b"[" * deep + b"]" * deep + b"}", "application/json", "JSON|status") for deep in DEPTHS),
    ],
    ids=range(6 + len(DEPTHS)),
)
def test_an_answer_that_is_not_the_services_is_told(body: bytes, media_type: str, phrase: str) -> None:
    answer = Answer(body=body, media_type=media_type)
    with scripted(answer) as server, Client(server.address) as client, pytest.raises(UnexpectedAnswer, match=phrase):
        client.live()


def test_a_number_beyond_all_bounds_is_told(service: httpx.Client) -> None:
    body = service.post("/predict", files={"file": png_bytes()}).json()
    body["probabilities"][0]["probability"] = 10**400
    answer = Answer(body=json.dumps(body).encode())
    with scripted(answer) as server, Client(server.address) as client, pytest.raises(UnexpectedAnswer, match="as 'pro"):
        client.predict(png_bytes())


@pytest.mark.parametrize("body", [b"", b"junk", png_bytes()[:300]], ids=["nothing", "junk", "a part"])
def test_a_picture_of_the_service_that_cannot_be_read_is_told(service: httpx.Client, body: bytes) -> None:
    predicted = service.post("/predict", files={"file": png_bytes()})
    explained = service.get("/explain", params={"prediction_id": predicted.json()["prediction_id"], "format": "json"})
    answers = [Answer(body=predicted.content), Answer(body=explained.content)]
    pictures = [Answer(body=body, media_type=f"image/{kind}") for kind in ("png", "jpeg")]
    with scripted(*answers, *pictures) as server, Client(server.address) as client:
        prediction = client.predict(png_bytes())
        heatmap = prediction.explain()
        with pytest.raises(UnexpectedAnswer, match="a PNG that cannot be read"):
            _ = heatmap.overlay
        with pytest.raises(UnexpectedAnswer, match="a JPEG that cannot be read"):
            _ = prediction.picture


def blanks(size_bytes: int) -> bytes:
    """A JSON object with so many blanks, compressed."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    million = bytes(2**20).replace(b"\0", b" ")
    body = [packer.compress(million) for _ in range(size_bytes // 2**20)]
    return packer.compress(b'{"status": "live"') + b"".join(body) + packer.compress(b"}") + packer.flush()


def ask_async(address: str) -> None:
    async def ask() -> None:
        async with AsyncClient(address) as client:
            await client.live()

    asyncio.run(ask())


def ask_sync(address: str) -> None:
    with Client(address) as client:
        client.live()


@pytest.mark.parametrize("ask", [ask_sync, ask_async])
def test_an_answer_is_read_to_a_limit(ask: Callable[[str], None]) -> None:
    small, large = (Answer(200, blanks(mib * 2**20), {"Content-Encoding": "gzip"}) for mib in (60, 512))
    with scripted(small) as server:
        ask(server.address)
    for answer in (large, replace(large, status=500)):
        with scripted(answer) as server:
            tracemalloc.start()
            try:
                with pytest.raises(UnexpectedAnswer, match="answers with more than 64 MiB"):
                    ask(server.address)
                assert tracemalloc.get_traced_memory()[1] < 256 * 2**20
            finally:
                tracemalloc.stop()
