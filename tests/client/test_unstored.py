"""A prediction that the service did not store is explained by the picture itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from fusionlens_client import AsyncClient, Client, InvalidInput

from tests.support.asking import png_bytes, scene
from tests.support.client_json import as_json


@pytest.fixture(scope="module")
def forgetful(forgetful_service: httpx.Client) -> Iterator[Client]:
    with Client(str(forgetful_service.base_url)) as client:
        yield client


def test_what_was_not_stored_is_still_explained(
    forgetful: Client, forgetful_service: httpx.Client, plain_service: httpx.Client
) -> None:
    prediction = forgetful.predict(np.asarray(scene()))
    assert (prediction.stored, prediction.prediction_id, prediction.expires_at) == (False, None, None)
    assert {*as_json(prediction.links).values()} == {None}
    heatmap = prediction.explain(method="gradcam++", target="benign")
    query = {"method": "gradcam++", "target": "benign"}
    raw = forgetful_service.post("/explain", params={**query, "format": "json"}, files={"file": png_bytes()})
    assert as_json(heatmap) == raw.json()
    png = forgetful_service.post("/explain", params=query, files={"file": png_bytes()})
    assert heatmap.png() == png.content
    with Client(str(plain_service.base_url)) as storing:
        stored = storing.predict(png_bytes())
        assert stored.stored
        np.testing.assert_allclose(stored.attention(head=0).array, prediction.attention(head=0).array, atol=1e-5)


def test_what_was_not_stored_has_no_preview(forgetful: Client) -> None:
    with pytest.raises(InvalidInput, match="did not store"):
        _ = forgetful.predict(png_bytes()).picture


def test_what_was_not_stored_can_be_forgotten_here(forgetful: Client) -> None:
    prediction = forgetful.predict(png_bytes())
    heatmap = prediction.explain()
    prediction.forget()
    prediction.forget()
    for question in (prediction.explain, prediction.similar, heatmap.png):
        with pytest.raises(InvalidInput, match="forgotten"):
            question()


def test_the_picture_is_kept_only_where_it_is_needed(forgetful: Client, client: Client) -> None:
    assert forgetful.predict(png_bytes())._subject.picture == png_bytes()
    assert client.predict(png_bytes())._subject.picture is None


def test_awaited_explanations_send_the_picture_again_too(forgetful: Client, forgetful_service: httpx.Client) -> None:
    async def explained() -> object:
        async with AsyncClient(str(forgetful_service.base_url)) as client:
            return as_json(await (await client.predict(png_bytes())).explain())

    assert asyncio.run(explained()) == as_json(forgetful.predict(png_bytes()).explain())
