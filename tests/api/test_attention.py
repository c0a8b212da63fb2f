"""Attention over HTTP: where tokens look, said to be of no class, and refused by models that have none."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.settings import Settings
from tests.support.asking import PNG, assert_problem, explained, picture_of, png_bytes, predict
from tests.support.serving import serving

QUERIES, HEADS = 16, 2  # of the tiny bundle: Swin tokens on a 4 × 4 grid


@pytest.fixture(scope="module")
def prediction_id(client: httpx.Client) -> str:
    """The id of a prediction whose attention is asked for."""
    return str(predict(client, png_bytes())["prediction_id"])


@pytest.mark.parametrize("query", [{}, {"query": 5}, {"head": 1}, {"query": 5, "head": 1}])
def test_a_map_is_on_the_cnns_grid_and_adds_up_to_1(
    client: httpx.Client, prediction_id: str, query: dict[str, int]
) -> None:
    answer = explained(client, "/attention", prediction_id, **query)
    assert answer["heatmap"].shape == tuple(answer["shape"]) == (2, 2)
    assert answer["heatmap"].min() > 0
    assert answer["heatmap"].sum() == pytest.approx(1, abs=1e-6)
    assert (answer["method"], answer["units"]) == ("attention", "attention weight")


def test_the_default_is_the_mean_over_queries_and_heads(client: httpx.Client, prediction_id: str) -> None:
    def asked(**query: int) -> np.ndarray:
        return np.asarray(explained(client, "/attention", prediction_id, **query)["heatmap"])

    rows = [asked(query=query) for query in range(QUERIES)]
    heads = [asked(head=head) for head in range(HEADS)]
    np.testing.assert_allclose(asked(), np.mean(rows, axis=0), atol=1e-6)
    np.testing.assert_allclose(asked(), np.mean(heads, axis=0), atol=1e-6)
    np.testing.assert_allclose(
        rows[3], np.mean([asked(query=3, head=head) for head in range(HEADS)], axis=0), atol=1e-6
    )
    assert np.ptp(rows, axis=0).max() > 1e-4 and np.ptp(heads, axis=0).max() > 1e-4


@pytest.mark.parametrize("query", [{}, {"method": "gradient", "target": "benign"}, {"layer": "swin"}])
def test_whole_is_every_map_at_once(client: httpx.Client, prediction_id: str, query: dict[str, str]) -> None:
    def asked(**more: object) -> np.ndarray:
        parameters: dict[str, Any] = {"prediction_id": prediction_id, "format": "npy", **query, **more}
        answer = client.get("/attention", params=parameters)
        assert answer.status_code == 200, answer.text
        return np.asarray(np.load(io.BytesIO(answer.content), allow_pickle=False))

    whole = asked(whole=True)
    heads, *grid = whole.shape[:3]
    assert grid == [4, 4] and heads >= 1
    np.testing.assert_allclose(whole.mean(axis=(0, 1, 2)), asked(), atol=1e-6)
    for head, row, column in ((0, 0, 0), (heads - 1, 1, 2), (0, 3, 3)):
        np.testing.assert_array_equal(whole[head, row, column], asked(head=head, query=4 * row + column))


@pytest.mark.parametrize("query", [{"format": "png"}, {"format": "npy", "query": 1}, {"format": "npy", "head": 0}])
def test_whole_is_npy_without_query_and_head(client: httpx.Client, prediction_id: str, query: dict[str, Any]) -> None:
    answer = client.get("/attention", params={"prediction_id": prediction_id, "whole": True, **query})
    assert "add format=npy, and leave out query and head" in assert_problem(answer, 422, "bad-parameter")


def test_it_says_that_it_is_of_no_class(client: httpx.Client, prediction_id: str) -> None:
    answer = explained(client, "/attention", prediction_id)
    assert answer["target"] is None
    assert "class-agnostic" in " ".join(answer["notes"])
    for name in ("target", "against"):
        query = {"prediction_id": prediction_id, name: "benign"}
        detail = assert_problem(client.get("/attention", params=query), 422, "bad-parameter")
        assert "leave out target and against, or choose the method gradient" in detail


def test_its_product_with_the_gradient_is_of_a_class(client: httpx.Client, prediction_id: str) -> None:
    benign, malignant, contrast, by_default = (
        explained(client, "/attention", prediction_id, method="gradient", query=5, head=1, **of_class)
        for of_class in (
            {"target": "benign"},
            {"target": "malignant"},
            {"target": "malignant", "against": "benign"},
            {},
        )
    )
    assert (contrast["method"], contrast["units"]) == ("attention_times_gradient", "logit")
    assert (contrast["target"], contrast["against"], benign["against"]) == ("malignant", "benign", None)
    assert by_default["target"] in ("benign", "malignant")
    assert "class-agnostic" not in " ".join(contrast["notes"])
    maps = [answer["heatmap"] for answer in (benign, malignant, contrast)]
    assert min(heatmap.min() for heatmap in maps) == 0 < min(heatmap.max() for heatmap in maps)
    assert np.abs(maps[0] - maps[1]).max() > 0.1 * maps[0].max()
    heads = [
        explained(client, "/attention", prediction_id, method="gradient", target="benign", head=head)["heatmap"]
        for head in range(HEADS)
    ]
    mean = explained(client, "/attention", prediction_id, method="gradient", target="benign")["heatmap"]
    np.testing.assert_allclose(mean, np.mean(heads, axis=0), rtol=1e-4)


@pytest.mark.parametrize("wrong", [{"target": "cat"}, {"against": "cat"}, {"target": "benign", "against": "benign"}])
def test_classes_that_cannot_be_explained_are_refused(
    client: httpx.Client, prediction_id: str, wrong: dict[str, str]
) -> None:
    query = {"prediction_id": prediction_id, "method": "gradient", **wrong}
    assert "choose" in assert_problem(client.get("/attention", params=query), 422, "bad-parameter")


def test_all_formats_are_of_the_same_map_stored_or_sent_along(client: httpx.Client, prediction_id: str) -> None:
    for wanted in ("png", "npy", "json"):
        query = {"format": wanted, "query": "3"}
        stored = client.get("/attention", params={"prediction_id": prediction_id, **query})
        sent_along = client.post("/attention", params=query, content=png_bytes(), headers=PNG)
        assert (stored.status_code, stored.content) == (200, sent_along.content)
        if wanted == "png":
            assert picture_of(stored).shape == (64, 96, 3)
        if wanted == "npy":
            grid = np.load(io.BytesIO(stored.content), allow_pickle=False)
            expected = explained(client, "/attention", prediction_id, query=3)["heatmap"]
            np.testing.assert_array_equal(grid, expected.astype(np.float32))


def test_models_without_attention_say_so(cnn_alone: httpx.Client, tmp_path: Path) -> None:
    from tests.support.bundles import write_tiny_bundle  # behind the import hook

    def refused(client: httpx.Client) -> tuple[str, str]:
        answer = predict(client, png_bytes())
        assert answer["links"]["attention"] is None
        stored = client.get("/attention", params={"prediction_id": answer["prediction_id"]})
        sent_along = client.post("/attention", content=png_bytes(), headers=PNG)
        return assert_problem(stored, 422, "not-offered"), assert_problem(sent_along, 422, "not-offered")

    assert all("cnn" in detail for detail in refused(cnn_alone))
    with serving(Settings(bundle=write_tiny_bundle(tmp_path / "bundle", fusion="concat"))) as concatenating:
        assert all("concat" in detail for detail in refused(concatenating))
