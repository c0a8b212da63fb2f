"""Every problem that the service has a name for is an exception of its own, with the service's sentence."""

from __future__ import annotations

import pickle
from http import HTTPStatus
from pathlib import Path

import fusionlens_client
import httpx
import pytest
from fusionlens_client import PROBLEMS, Client, ConnectionFailed, Problem, TimedOut

from app.api import problems
from app.server.http import REFUSALS
from app.server.provision import add_key
from app.settings import Settings
from tests.support.asking import png_bytes
from tests.support.scripted_server import Answer, scripted
from tests.support.serving import serving

# Names that the service's tables do not list: of any failure, and of the two errors of routing.
OTHER_NAMES = {"internal", "not-found", "method-not-allowed"}
NAMES = {name: status for status, name in problems.PROBLEMS.values()}
NAMES |= {name: status for name, (status, _) in REFUSALS.items()}


def problem(name: str, status: int, **headers: str) -> Answer:
    """A problem as the service writes it."""
    body = problems.problem(status, name, "Say what to do: this.").model_dump_json().encode()
    return Answer(status, body, headers, problems.MEDIA_TYPE)


def test_every_name_has_a_class_of_its_own() -> None:
    assert PROBLEMS.keys() == NAMES.keys() | OTHER_NAMES
    assert len({*PROBLEMS.values()}) == len(PROBLEMS)
    for problem_class in PROBLEMS.values():
        assert getattr(fusionlens_client, problem_class.__name__) is problem_class
        assert problem_class.__base__ is Problem and problem_class.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_a_problem_raises_its_class_with_the_sentence(name: str) -> None:
    answer = problem(name, NAMES[name], **{"X-Request-ID": "abc"})
    with scripted(answer) as server, Client(server.address) as client, pytest.raises(Problem) as raised:
        client.model()
    error = raised.value
    assert type(error) is PROBLEMS[name] and str(error) == "Say what to do: this."
    assert (error.status, error.type, error.request_id) == (NAMES[name], f"urn:fusionlens:problem:{name}", "abc")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.status) == (type(error), str(error), error.status)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (problem("of-the-future", 418), "^Say what to do: this.$"),
        (Answer(400, b'{"type": "about:blank", "detail": "A proxy says so."}'), "^A proxy says so.$"),
        (Answer(400, b'{"type": "not-ready", "detail": "Another service."}'), "^Another service.$"),
        (Answer(502, b"<html>", media_type="text/html"), r"502 \(Bad Gateway\) and gave no reason"),
        (Answer(400, b'{"type": 5, "detail": null}'), "gave no reason"),
        (Answer(400, b'["a list"]'), "gave no reason"),
        (Answer(599, b""), "an unknown status"),
        (Answer(307, b"", {"Location": "https://elsewhere/model"}), "redirects to https://elsewhere/model"),
        (Answer(307, b"", {"Location": "https://elsewhere/modèle"}), "redirects to https://elsewhere/modèle"),
        (Answer(500, b"[" * 200_000), r"500 \(Internal Server Error\) and gave no reason"),
    ],
)
def test_what_has_no_known_name_is_a_plain_problem(answer: Answer, sentence: str) -> None:
    with scripted(answer) as server, Client(server.address) as client, pytest.raises(Problem, match=sentence) as raised:
        client.model()
    assert type(raised.value) is Problem and raised.value.status == answer.status


def test_a_redirection_does_not_get_the_key() -> None:
    with scripted(Answer()) as elsewhere:
        answer = Answer(307, b"", {"Location": f"{elsewhere.address}/model"})
        with scripted(answer) as server, Client(server.address, "fl_key") as client:
            with pytest.raises(Problem):
                client.model()
            assert server.requests[0].headers["Authorization"] == "Bearer fl_key"
        assert elsewhere.requests == []


def test_a_real_service_is_understood(client: Client, plain_service: httpx.Client) -> None:
    with pytest.raises(fusionlens_client.UnsupportedMediaType, match="send JPEG, PNG"):
        client.predict(b"no picture")
    with pytest.raises(fusionlens_client.BadParameter, match="k: "):
        client.predict(png_bytes()).similar(1000)
    with Client(str(plain_service.base_url)) as plain:
        prediction = plain.predict(png_bytes())
        for question in (prediction.novelty, prediction.similar):
            with pytest.raises(fusionlens_client.NotOffered, match="fusionlens-train"):
                question()
    with Client(f"{plain_service.base_url}/elsewhere") as lost, pytest.raises(fusionlens_client.NotFound) as raised:
        lost.model()
    assert raised.value.status == HTTPStatus.NOT_FOUND and raised.value.request_id


def test_what_was_forgotten_is_unknown(client: Client) -> None:
    prediction = client.predict(png_bytes())
    heatmap = prediction.explain()
    prediction.forget()
    questions = (prediction.explain, prediction.tokens, prediction.similar, prediction.forget, heatmap.png)
    for question in (*questions, lambda: prediction.picture):
        with pytest.raises(fusionlens_client.UnknownPrediction):
            question()


def test_a_key_opens_the_service(tiny_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    key = add_key(file, "hospital", ["predict"])
    with serving(Settings(bundle=tiny_bundle, keys=file)) as raw:
        address = str(raw.base_url)
        with Client(address) as without, pytest.raises(fusionlens_client.Unauthorized) as raised:
            without.predict(png_bytes())
        assert raised.value.status == 401
        with Client(address, key) as client:
            assert client.predict(png_bytes()).explain().array.any()


def test_a_service_that_is_not_there_or_silent_is_told(closed_port: int) -> None:
    address = f"http://127.0.0.1:{closed_port}"
    with Client(address) as client, pytest.raises(ConnectionFailed, match=f"{address}/ cannot be reached"):
        client.predict(png_bytes())
    with Client(address) as client, pytest.raises(ConnectionFailed):
        client.live()


def test_a_service_that_does_not_answer_is_told(silent_address: str) -> None:
    with Client(silent_address, timeout_s=0.2) as client, pytest.raises(TimedOut, match="did not answer in time"):
        client.live()
