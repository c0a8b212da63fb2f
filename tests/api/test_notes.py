"""What was asked for and is done otherwise, or not at all, is said in the notes: in JSON, and in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from app.settings import Settings
from tests.support.asking import PNG, picture_of, png_bytes, predict, scene
from tests.support.pictures import encoded
from tests.support.serving import serving

DRAWN = {"alpha": "0.4", "alpha_min": "0.1", "alpha_max": "0.9", "contour": "0.5", "size": "64", "threshold": "0.2"}
SCALED = {"clip_low": "5", "clip_high": "95", "colormap": "jet"}


def facts_of(response: httpx.Response) -> dict[str, Any]:
    """What the header says, which is what the JSON says."""
    assert response.status_code == 200, response.text
    facts: dict[str, Any] = json.loads(response.headers["fusionlens-explanation"])
    if response.headers["content-type"] == "application/json":
        assert facts.items() <= response.json().items()
    return facts


def explained(client: httpx.Client, route: str = "/explain", **query: Any) -> httpx.Response:
    return client.post(route, params=query, content=png_bytes(1200, 900), headers=PNG)


@pytest.mark.parametrize("size", [32, 500, 1023, 1024, 1025, 4000, 100_000])
def test_a_size_that_is_not_reached_is_said(client: httpx.Client, size: int) -> None:
    for route in ("/explain", "/attention", "/tokens"):
        response = explained(client, route, size=size)
        assert max(picture_of(response).shape[:2]) == min(size, 1024)
        said = [note for note in facts_of(response)["notes"] if "1024 px" in note and str(size) in note]
        assert bool(said) is (size > 1024)


def test_a_small_picture_is_not_enlarged_and_this_is_said(client: httpx.Client) -> None:
    response = client.post("/explain", params={"size": 200}, content=png_bytes(96, 64), headers=PNG)
    assert max(picture_of(response).shape[:2]) == 96
    assert any("96 px" in note for note in facts_of(response)["notes"])


def test_the_preview_of_the_service_is_the_bound(tiny_bundle: Path) -> None:
    with serving(Settings(bundle=tiny_bundle, preview_side_px=300)) as client:
        notes = facts_of(explained(client, size=1024))["notes"]
    assert any("300 px" in note for note in notes)


@pytest.mark.parametrize("format_name", ["json", "npy", "png"])
@pytest.mark.parametrize("name", [*DRAWN, *SCALED])
def test_a_parameter_that_a_format_does_not_show_is_said(client: httpx.Client, format_name: str, name: str) -> None:
    value = (DRAWN | SCALED)[name]
    said = " ".join(facts_of(explained(client, format=format_name, **{name: value}))["notes"])
    without = " ".join(facts_of(explained(client, format=format_name))["notes"])
    is_unused = format_name == "npy" or (format_name == "json" and name in DRAWN)
    assert (f"format={format_name}" in said and name in said) if is_unused else said == without, said


def test_all_panels_are_told_of(client: httpx.Client) -> None:
    by_order = [facts_of(explained(client, compare=order)) for order in ("cnn,swin,fusion", "fusion,cnn,swin")]
    assert by_order[0]["branch"] == "cnn,swin,fusion"
    assert {*by_order[0]["notes"]} == {*by_order[1]["notes"]} and {*by_order[0]["warnings"]} == {
        *by_order[1]["warnings"]
    }
    assert by_order[0]["no_positive_evidence"] == by_order[1]["no_positive_evidence"]
    of_fusion = facts_of(explained(client))
    assert {*of_fusion["notes"]} <= {*by_order[1]["notes"]}


def test_percentiles_that_almost_coincide_are_said(client: httpx.Client) -> None:
    response = explained(client, clip_low=99.999, clip_high=99.9999, format="json")
    is_said = any("scale begins at 0" in note for note in response.json()["notes"])
    assert is_said is (response.json()["legend"]["low"] == 0)


def test_what_is_told_of_the_picture_is_told_whoever_draws_it(client: httpx.Client) -> None:
    frames = encoded(scene(), "GIF", save_all=True, append_images=[Image.new("RGB", (96, 64))])
    told = predict(client, frames)["picture"]["notes"]
    assert told
    for format_name in ("png", "npy", "json"):
        asked = client.post("/explain", params={"format": format_name}, files={"file": ("a.gif", frames)})
        assert set(told) <= set(facts_of(asked)["notes"])
