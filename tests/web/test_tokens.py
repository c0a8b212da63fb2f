"""Where the Swin's tokens look: drawn live from one answer, for the pointer and for the keyboard."""

from __future__ import annotations

import math
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect

from tests.support.visit import Visit, assert_looks_like
from tests.web.conftest import EXAMPLES


@pytest.fixture
def tokens(visit: Visit) -> Visit:
    """The page with the tokens of a picture."""
    visit.choose(EXAMPLES / "drawn.webp")
    visit.wait()
    visit.view("tokens")
    return visit


def drawn(service: httpx.Client, visit: Visit, **query: Any) -> bytes:
    """The service's own drawing of a token's map."""
    identified = {"prediction_id": visit.prediction_id}
    answer = service.get("/attention", params={**identified, **query})
    assert answer.status_code == 200, answer.text
    return answer.content


def columns_of(tokens: Visit) -> int:
    """The number of columns of the tokens' grid, which is square."""
    return math.isqrt(tokens.page.locator("[data-cell]").count())


def peak(service: httpx.Client, visit: Visit, **query: Any) -> str:
    """Where the service's map is largest, in the page's words."""
    identified = {"prediction_id": visit.prediction_id}
    heatmap = np.array(service.get("/attention", params={**identified, **query, "format": "json"}).json()["heatmap"])
    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    return f"most at row {row + 1}, column {column + 1}"


def test_the_pointer_shows_each_tokens_map_and_asks_once(tokens: Visit, service: httpx.Client) -> None:
    assert_looks_like(tokens.seen(), drawn(service, tokens))
    sent = len(tokens.requests)
    columns = columns_of(tokens)
    for cell in (0, 24, columns**2 - 1):
        tokens.point(cell)
        assert_looks_like(tokens.seen(), drawn(service, tokens, query=cell))
        assert f"row {cell // columns + 1}, column {cell % columns + 1} looks" in tokens.text("#caption")
        assert peak(service, tokens, query=cell) in tokens.text("#caption")
    tokens.select("head", "3")
    tokens.point(24)
    assert_looks_like(tokens.seen(), drawn(service, tokens, query=24, head=3))
    assert len(tokens.requests) == sent
    (asked,) = tokens.asked("attention")
    assert (asked["whole"], asked["format"], asked["layer"]) == ("true", "npy", "cross")


def test_arrow_keys_move_the_token_and_escape_shows_the_mean(tokens: Visit, service: httpx.Client) -> None:
    mean = tokens.seen()
    stop, columns = tokens.page.locator("[data-cell][tabindex='0']"), columns_of(tokens)
    stop.focus()
    assert stop.count() == 1, "one stop for Tab, not one for each cell"
    cell = int(stop.get_attribute("data-cell") or "")
    for key, step in (("ArrowRight", 1), ("ArrowDown", columns), ("ArrowLeft", -1), ("ArrowUp", -columns)):
        cell += step
        tokens.press(key)
        expect(tokens.page.locator(f"[data-cell='{cell}']")).to_be_focused()
        expect(tokens.page.locator("[aria-selected]")).to_have_attribute("data-cell", str(cell))
        assert_looks_like(tokens.seen(), drawn(service, tokens, query=cell))
    tokens.press("ArrowUp", columns + 2)
    expect(tokens.page.locator(f"[data-cell='{cell % columns}']")).to_be_focused()
    tokens.press("Escape")
    assert np.array_equal(tokens.seen(), mean)
    assert "On average" in tokens.text("#caption")


def test_attention_can_be_of_a_class_and_of_the_swins_own_layer(tokens: Visit, service: httpx.Client) -> None:
    tokens.page.locator("[data-cell='10']").click()
    assert "class-agnostic" in tokens.text("#sentences")
    tokens.check("of-class")
    tokens.select("target", "malignant")
    of_class = {"method": "gradient", "target": "malignant"}
    assert_looks_like(tokens.seen(), drawn(service, tokens, query=10, **of_class))
    assert "of what speaks for malignant" in tokens.text("#caption")
    assert "Attention × gradient" in tokens.text("#sentences")
    tokens.select("layer", "swin")
    expect(tokens.page.locator("#of-class")).to_be_disabled()
    expect(tokens.page.locator("#target")).to_be_disabled()
    assert_looks_like(tokens.seen(), drawn(service, tokens, query=10, layer="swin"))
    assert "among the transformer's tokens" in tokens.text("#caption")
