"""A client that is closed, or that belongs to another event loop, says so instead of asking."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fusionlens_client import AsyncClient, Client, InvalidInput

from tests.support.asking import png_bytes

CLOSED = "This client is closed: make a new one."


def test_a_closed_client_says_so_at_every_question(service: httpx.Client) -> None:
    client = Client(str(service.base_url))
    prediction = client.predict(png_bytes())
    heatmap = prediction.explain()
    client.close()
    client.close()
    questions = (client.model, client.live, client.ready, prediction.explain, prediction.similar, heatmap.png)
    for question in (*questions, lambda: client.predict(png_bytes()), lambda: prediction.picture, prediction.forget):
        with pytest.raises(InvalidInput, match=CLOSED):
            question()


def test_a_closed_client_that_is_awaited_says_so_too(service: httpx.Client) -> None:
    async def ask() -> None:
        async with AsyncClient(str(service.base_url)) as client:
            prediction = await client.predict(png_bytes())
        await client.close()
        for question in (client.live, prediction.explain, prediction.picture, prediction.forget):
            with pytest.raises(InvalidInput, match=CLOSED):
                await question()

    asyncio.run(ask())


def test_a_client_that_is_awaited_belongs_to_one_event_loop(service: httpx.Client) -> None:
    client = AsyncClient(str(service.base_url))

    async def ask_again() -> None:
        async with client:
            await client.live()

    assert asyncio.run(client.live()).status == "live"
    for again in (client.live, client.close, ask_again):
        with pytest.raises(InvalidInput, match="was used in another event loop: make a new one"):
            asyncio.run(again())


def test_a_client_that_asked_nothing_is_closed_in_any_event_loop() -> None:
    client = AsyncClient("http://localhost")
    asyncio.run(client.close())
    asyncio.run(client.close())
