"""`/similar`: the training pictures that a picture resembles, and what is told of them."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.settings import Settings
from tests.support.asking import assert_problem, png_bytes, predict
from tests.support.serving import serving
from tests.support.trusted import Indexed, write_indexed


@pytest.fixture(scope="module")
def indexed(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Indexed:
    return write_indexed(tmp_path_factory.mktemp("indexed"), tiny_bundle)


@pytest.fixture(scope="module")
def indexing(indexed: Indexed) -> Iterator[httpx.Client]:
    with serving(Settings(bundle=indexed.bundle)) as client:
        yield client


def training_pictures(data: Path) -> list[dict[str, str]]:
    """The rows of the table whose pictures are in train."""
    with (data / "labels.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["split"] == "train"]


def test_a_training_picture_is_most_similar_to_itself(indexing: httpx.Client, indexed: Indexed) -> None:
    for row in training_pictures(indexed.data)[:10]:
        content = (indexed.data / row["path"]).read_bytes()
        answer = predict(indexing, content)
        response = indexing.get(answer["links"]["similar"] + "&k=3")
        found = response.json()
        assert response.headers["cache-control"] == "no-store"
        first = found["cases"][0]
        assert first["id"] == hashlib.sha256(content).hexdigest()[:16]
        assert (first["label"], first["origin"], first["group"], first["thumbnail"]) == (
            row["label"], "training", None, None,
        )  # fmt: skip
        assert first["similarity"] == pytest.approx(1, abs=0.01)
        assert len(found["cases"]) == 3 and sum(one["share"] for one in found["shares"]) == pytest.approx(1)
        assert found["model"]["sha256"] == answer["model"]["sha256"]
        assert "do not prove" in found["notes"][0]


def test_a_picture_that_is_sent_has_the_same_cases(indexing: httpx.Client) -> None:
    stored = indexing.get("/similar", params={"prediction_id": predict(indexing, png_bytes())["prediction_id"]}).json()
    sent = indexing.post("/similar", files={"file": ("x", png_bytes())}).json()
    assert [one["id"] for one in sent["cases"]] == [one["id"] for one in stored["cases"]] and len(sent["cases"]) == 5
    as_field = indexing.post("/similar", data={"k": "2"}, files={"file": ("x", png_bytes())}).json()
    assert as_field["cases"] == sent["cases"][:2]


def test_what_was_forgotten_has_no_cases(indexing: httpx.Client) -> None:
    prediction_id = predict(indexing, png_bytes())["prediction_id"]
    query = {"prediction_id": prediction_id}
    assert indexing.get("/similar", params=query).status_code == 200
    assert indexing.delete(f"/predictions/{prediction_id}").status_code == 204
    assert_problem(indexing.get("/similar", params=query), 404, "unknown-prediction")


@pytest.mark.parametrize("k", ["0", "101", "-1", "1.5", "many", ""])
def test_other_numbers_of_cases_are_refused(indexing: httpx.Client, k: str) -> None:
    prediction_id = predict(indexing, png_bytes())["prediction_id"]
    response = indexing.get("/similar", params={"prediction_id": prediction_id, "k": k})
    assert "k" in assert_problem(response, 422, "bad-parameter")


def test_a_bundle_without_an_index_says_what_makes_one(client: httpx.Client) -> None:
    answer = predict(client, png_bytes())
    assert answer["links"]["similar"] is None and client.get("/model").json()["cases"] is None
    for response in (
        client.get("/similar", params={"prediction_id": answer["prediction_id"]}),
        client.post("/similar", files={"file": ("x", png_bytes())}),
    ):
        assert "--cases" in assert_problem(response, 422, "not-offered")


def test_the_card_says_what_is_shown_of_the_cases(indexing: httpx.Client) -> None:
    cases = indexing.get("/model").json()["cases"]
    assert cases == {"names": False, "groups": False, "thumbnails": False, "pictures": 90}
