"""A bundle whose transformer is no Swin: it is served like every other one, and its branch is called vit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.settings import Settings
from tests.support.artifacts import build_once
from tests.support.asking import assert_problem, picture_of, png_bytes, predict
from tests.support.serving import serving


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    bundle = build_once("tests.support.bundles:write_vit_bundle", tmp_path_factory.mktemp("bundles") / "vit")
    with serving(Settings(bundle=Path(bundle))) as client:
        yield client


@pytest.fixture(scope="module")
def stored(client: httpx.Client) -> str:
    return str(predict(client, png_bytes())["prediction_id"])


def asked(client: httpx.Client, path: str, stored: str, **query: Any) -> dict[str, Any]:
    answer = client.get(path, params={"prediction_id": stored, "format": "json", **query})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_card_names_its_branches_and_layers(client: httpx.Client) -> None:
    card = client.get("/model").json()
    assert (card["branches"], card["layers"]) == (["fusion", "cnn", "vit"], ["cross", "vit"])
    assert (card["architecture"]["swin"], card["token_stages"]) == ("vit_tiny_patch16_224", [4])


@pytest.mark.parametrize("method", ["integrated", "gradcam", "ablationcam"])
def test_heatmaps_are_keyed_by_the_name_of_the_branch(client: httpx.Client, stored: str, method: str) -> None:
    fused, own = (asked(client, "/explain", stored, method=method, branch=branch) for branch in ("fusion", "vit"))
    assert [*fused["branches"]] == ["cnn", "vit"]
    assert (own["shape"], own["branch"]) == ([4, 4], "vit")
    panels = client.get("/explain", params={"prediction_id": stored, "compare": "cnn,vit,fusion"})
    assert picture_of(panels).ndim == 3


def test_what_is_there_only_in_a_swin_is_refused_with_what_there_is(client: httpx.Client, stored: str) -> None:
    refused = client.get("/explain", params={"prediction_id": stored, "branch": "swin"})
    assert "vit" in assert_problem(refused, 422, "not-offered")
    refused = client.get("/attention", params={"prediction_id": stored, "layer": "swin"})
    assert "called vit" in assert_problem(refused, 422, "not-offered")


def test_attention_and_saliency_of_its_tokens(client: httpx.Client, stored: str) -> None:
    cross = asked(client, "/attention", stored)
    assert cross["shape"] == [2, 2]  # the CNN's grid
    own = asked(client, "/attention", stored, layer="vit", query=5)
    assert (own["method"], own["branch"], own["shape"]) == ("vit_attention", "vit", [4, 4])
    assert 0.5 < np.sum(own["heatmap"]) <= 1  # less what is paid to the class token
    saliency = asked(client, "/tokens", stored)
    assert (saliency["branch"], saliency["shape"]) == ("vit", [4, 4])
    assert np.min(saliency["heatmap"]) >= 0 and np.max(saliency["heatmap"]) > 0
