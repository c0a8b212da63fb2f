"""The client that is awaited asks and answers the same as the one that waits."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fusionlens_client import AsyncClient, AsyncHeatmap, AsyncPrediction, Client, Heatmap, Prediction, UnknownPrediction

from tests.support.asking import png_bytes, scene
from tests.support.client_json import as_json

OF_ONE = ("prediction_id", "expires_at", "timings_ms", "links")  # what differs between any two predictions


def test_both_clients_have_the_same_questions_and_parameters() -> None:
    for waiting, awaited in ((Client, AsyncClient), (Prediction, AsyncPrediction), (Heatmap, AsyncHeatmap)):
        names = {name for name in dir(waiting) if not name.startswith("_")}
        assert names == {name for name in dir(awaited) if not name.startswith("_")}
        for name in names:
            if not isinstance(member := getattr(waiting, name), property):
                assert parameters(member) == parameters(getattr(awaited, name)), name
    assert parameters(Client.__init__) == parameters(AsyncClient.__init__)


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """Name, default and kind of each parameter."""
    return [(one.name, one.default, one.kind) for one in inspect.signature(function).parameters.values()]


QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    ("explain", {}),
    ("explain", {"method": "gradcam", "target": "benign", "branch": "cnn", "detail": "fine"}),
    ("attention", {"head": 0}),
    ("tokens", {"target": "benign"}),
    ("novelty", {}),
]


def waited(client: Client, folder: Path) -> dict[str, Any]:
    """All that the client answers."""
    prediction = client.predict(scene())
    heatmaps = [getattr(prediction, name)(**query) for name, query in QUESTIONS]
    heatmaps[0].save(folder / "map.npy")
    heatmaps[0].save(folder / "map.png")
    return {
        "prediction": without_own(prediction),
        "heatmaps": [as_json(heatmap) for heatmap in heatmaps],
        "drawn": [heatmap.png() for heatmap in heatmaps],
        "overlay": np.asarray(heatmaps[1].overlay).tolist(),
        "similar": prediction.similar(3),
        "picture": np.asarray(prediction.picture).tolist(),
        "model": client.model(),
        "health": (client.live(), client.ready()),
        "saved": {file.name: file.read_bytes() for file in folder.iterdir()},
    }


async def awaited(client: AsyncClient, folder: Path) -> dict[str, Any]:
    """The same."""
    prediction = await client.predict(scene())
    heatmaps = [await getattr(prediction, name)(**query) for name, query in QUESTIONS]
    await heatmaps[0].save(folder / "map.npy")
    await heatmaps[0].save(folder / "map.png")
    return {
        "prediction": without_own(prediction),
        "heatmaps": [as_json(heatmap) for heatmap in heatmaps],
        "drawn": [await heatmap.png() for heatmap in heatmaps],
        "overlay": np.asarray(await heatmaps[1].overlay()).tolist(),
        "similar": await prediction.similar(3),
        "picture": np.asarray(await prediction.picture()).tolist(),
        "model": await client.model(),
        "health": (await client.live(), await client.ready()),
        "saved": {file.name: file.read_bytes() for file in folder.iterdir()},
    }


def without_own(prediction: Any) -> dict[str, Any]:
    return {name: value for name, value in as_json(prediction).items() if name not in OF_ONE}


def test_all_answers_are_the_same(client: Client, service: httpx.Client, tmp_path: Path) -> None:
    async def ask(folder: Path) -> dict[str, Any]:
        async with AsyncClient(str(service.base_url)) as other:
            return await awaited(other, folder)

    one, other = tmp_path / "waited", tmp_path / "awaited"
    one.mkdir()
    other.mkdir()
    expected, found = waited(client, one), asyncio.run(ask(other))
    for name, value in expected.items():
        assert found[name] == value, name


def test_many_questions_at_once_are_each_answered(service: httpx.Client) -> None:
    async def ask() -> None:
        async with AsyncClient(str(service.base_url)) as client:
            prediction = await client.predict(png_bytes())
            labels = [*prediction.probabilities]
            heatmaps = await asyncio.gather(*(prediction.explain(target=label) for label in labels))
            assert [heatmap.target for heatmap in heatmaps] == labels
            await prediction.forget()
            with pytest.raises(UnknownPrediction):
                await prediction.explain()

    asyncio.run(ask())
