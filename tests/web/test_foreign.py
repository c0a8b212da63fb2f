"""What is foreign in a picture, and which training pictures it resembles: beside the map, and in a printed report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect

from app.drawing.png import encode_png
from tests.support.trusted import Indexed, write_indexed
from tests.support.visit import Visit, assert_looks_like
from tests.web.conftest import EXAMPLES, started

NOISE = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def indexed(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Indexed:
    return write_indexed(tmp_path_factory.mktemp("indexed"), tiny_bundle)


@pytest.fixture(scope="module")
def indexing(indexed: Indexed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service whose bundle knows what is foreign to it and what is similar."""
    with started(tmp_path_factory.mktemp("indexing"), FUSIONLENS_BUNDLE=str(indexed.bundle)) as client:
        yield client


def test_foreign_parts_are_drawn_as_the_service_draws_them(
    visit_of: Callable[[httpx.Client], Visit], indexing: httpx.Client
) -> None:
    visit = visit_of(indexing)
    visit.choose(("noise.png", encode_png(NOISE)))
    visit.wait()
    visit.view("novelty")
    identified = {"prediction_id": visit.prediction_id}
    answer = indexing.get("/novelty", params={**identified, "format": "json"}).json()
    assert_looks_like(visit.seen(), indexing.get("/novelty", params=identified).content)
    nothing = "No part of the picture is foreign"
    assert visit.text("#caption").startswith(nothing if answer["no_positive_evidence"] else "What is foreign to")
    assert answer["notes"][0] in visit.text("#sentences")
    for control in ("#target", "#against", "#method", "#branch"):
        expect(visit.page.locator(control)).to_be_hidden()
    visit.check("detail")
    fine = indexing.get("/novelty", params={**identified, "detail": "fine"})
    assert_looks_like(visit.seen(), fine.content)
    overlay = indexing.get("/novelty", params={**identified, "detail": "fine", "colormap": "viridis", "alpha_max": 0.7})
    assert visit.save("png").path().read_bytes() == overlay.content


def test_similar_cases_are_named_beside_the_map_and_printed(
    visit_of: Callable[[httpx.Client], Visit], indexing: httpx.Client
) -> None:
    visit = visit_of(indexing)
    visit.choose(EXAMPLES / "drawn.webp")
    visit.wait()
    found = indexing.get("/similar", params={"prediction_id": visit.prediction_id}).json()
    rows = visit.page.locator("#cases li")
    expect(rows).to_have_count(5)
    for row, case in zip(rows.all_inner_texts(), found["cases"], strict=True):
        assert row.startswith(case["label"]) and case["id"] in row
    counted = ", ".join(f"{round(5 * one['share'])} {one['label']}" for one in found["shares"])
    assert visit.text("#shares").endswith(f": {counted}.")
    assert found["notes"][0] in visit.text("#cases-notes")
    visit.page.emulate_media(media="print")
    expect(rows.first).to_be_visible()
    visit.page.emulate_media(media="screen")
    visit.choose(EXAMPLES / "ragged.webp")
    visit.wait()
    other = indexing.get("/similar", params={"prediction_id": visit.prediction_id}).json()
    assert all(case["id"] in row for row, case in zip(rows.all_inner_texts(), other["cases"], strict=True))


def test_a_model_without_either_offers_neither(
    visit_of: Callable[[httpx.Client], Visit], service: httpx.Client
) -> None:
    card = service.get("/model").json()
    visit = visit_of(service)
    visit.choose(EXAMPLES / "drawn.webp")
    visit.wait()
    expect(visit.page.locator("#views [value=novelty]").locator("..")).to_be_visible(visible=card["novelty"])
    expect(visit.page.locator("#similar")).to_be_visible(visible=card["cases"] is not None)
