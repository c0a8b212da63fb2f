"""Caching and forgetting: the same address gives the same bytes, until the prediction is gone for everyone."""

from __future__ import annotations

import asyncio
import dataclasses
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from app.api.application import create_app
from app.settings import Settings
from tests.support.asking import assert_problem, links_of, png_bytes, predict
from tests.support.serving import serving, serving_app


@pytest.mark.parametrize("route", ["gradcam", "attention"])
def test_the_same_address_gives_the_same_bytes_and_304_where_they_are_known(client: httpx.Client, route: str) -> None:
    link = predict(client, png_bytes())["links"][route]
    first, again = client.get(link), client.get(link)
    assert first.content == again.content
    assert first.headers["etag"] == again.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"
    known = client.get(link, headers={"if-none-match": first.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    assert (known.headers["etag"], known.headers["cache-control"]) == (first.headers["etag"], "private, no-cache")
    assert client.get(link, headers={"if-none-match": '"of-something-else"'}).content == first.content


def test_what_was_asked_before_is_answered_without_the_model(app: FastAPI, client: httpx.Client) -> None:
    answer = predict(client, png_bytes())
    link, service = answer["links"]["gradcam"], app.state.models.current
    first = client.get(link)
    passes = service._explanation_queues["explain"]._recent_s
    before = list(passes)
    again = [client.get(link) for _ in range(20)]
    assert list(passes) == before  # the model was not asked
    assert all(one.content == first.content for one in again)
    assert {name: again[0].headers[name] for name in ("etag", "content-type", "fusionlens-explanation")} == {
        name: first.headers[name] for name in ("etag", "content-type", "fusionlens-explanation")
    }
    client.get(link + "&alpha=0.31")
    assert list(passes) != before


def test_answers_kept_are_bounded_and_go_with_their_prediction(app: FastAPI, client: httpx.Client) -> None:
    answer = predict(client, png_bytes())
    service = app.state.models.current
    before = service.explanation_cache.used_bytes
    size = sum(len(client.get(answer["links"]["gradcam"] + f"&alpha=0.{n}").content) for n in range(1, 9))
    assert before + size < service.explanation_cache.used_bytes < before + size + 8 * 4000  # headers, and bookkeeping
    client.delete(f"/predictions/{answer['prediction_id']}")
    assert service.explanation_cache.used_bytes == before


def test_another_question_or_another_prediction_has_another_etag(client: httpx.Client) -> None:
    links = [predict(client, png_bytes())["links"]["gradcam"] for _ in range(2)]
    asked = ["", "&format=json", "&target=benign", "&target=malignant", "&branch=cnn", "&alpha=0.2", "&colormap=jet"]
    tags = [client.get(link + query).headers["etag"] for link in links for query in asked]
    assert len(set(tags)) == len(tags)


def test_a_forgotten_prediction_is_gone_also_for_who_knows_its_etag(client: httpx.Client) -> None:
    answer = predict(client, png_bytes())
    etag = client.get(answer["links"]["gradcam"]).headers["etag"]
    forget = f"/predictions/{answer['prediction_id']}"
    forgotten = client.delete(forget)
    assert (forgotten.status_code, forgotten.content) == (204, b"")
    for link in links_of(answer):
        assert_problem(client.get(link), 404, "unknown-prediction")
        assert_problem(client.get(link, headers={"if-none-match": etag}), 404, "unknown-prediction")
    assert_problem(client.delete(forget), 404, "unknown-prediction")


def test_an_expired_prediction_is_gone(tiny_bundle: Path) -> None:
    app, now_s = create_app(Settings(bundle=tiny_bundle, store_ttl_s=1.5)), [0.0]
    app.state.models.store._clock = lambda: now_s[0]
    with serving_app(app) as client:
        answer = predict(client, png_bytes())
        now_s[0] = 1.4
        assert client.get(answer["links"]["gradcam"]).status_code == 200
        now_s[0] = 1.5
        detail = assert_problem(client.get(answer["links"]["gradcam"]), 404, "unknown-prediction")
        assert "/predict" in detail
        assert_problem(client.delete(f"/predictions/{answer['prediction_id']}"), 404, "unknown-prediction")


def test_a_prediction_that_made_room_is_gone_and_a_used_one_stays(tiny_bundle: Path, client: httpx.Client) -> None:
    with serving(Settings(bundle=tiny_bundle, store_max_bytes=60_000)) as small:
        first = predict(small, png_bytes())["links"]["gradcam"]
        others = []
        for _ in range(8):
            others.append(predict(small, png_bytes())["links"]["gradcam"])
            assert small.get(first).status_code == 200
        found = [small.get(link).status_code for link in others]
    assert 404 in found and found[-1] == 200
    assert all(earlier >= later for earlier, later in pairwise(found))


def test_a_prediction_of_another_model_is_gone(app: FastAPI, client: httpx.Client) -> None:
    store = app.state.models.current.store
    stored = asyncio.run(store.get(predict(client, png_bytes())["prediction_id"], ""))
    other = asyncio.run(store.put(dataclasses.replace(stored, bundle_sha256="0" * 64), ""))
    for route in ("/gradcam", "/attention"):
        response = client.get(route, params={"prediction_id": other.prediction_id})
        assert "again" in assert_problem(response, 410, "model-gone")
    assert client.delete(f"/predictions/{other.prediction_id}").status_code == 204


def test_ids_never_repeat_and_cannot_be_guessed(client: httpx.Client) -> None:
    ids = [predict(client, png_bytes(8, 8))["prediction_id"] for _ in range(5)]
    assert len(set(ids)) == len(ids)
    assert all(len(name) * 6 >= 128 for name in ids)  # base64: 6 bits a character
