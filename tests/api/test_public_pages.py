"""What anyone may look at: the model's card, the health of the service, and the page for people."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx

from app.drawing.overlay import COLORMAPS
from app.explain.methods import METHODS
from tests.api.conftest import MAX_UPLOAD_BYTES
from tests.support.asking import png_bytes, predict


def test_the_card_says_what_the_manifest_says_and_what_may_be_asked(client: httpx.Client, tiny_bundle: Path) -> None:
    card, manifest = client.get("/model").json(), json.loads((tiny_bundle / "manifest.json").read_text())
    public = card.keys() & manifest.keys()
    assert {"classes", "metrics", "licence", "data", "notes", "decision", "calibration", "input"} <= public
    assert {name: card[name] for name in public} == {name: manifest[name] for name in public}
    assert not {"files", "recipe", "path"} & card.keys()
    assert card["limits"]["max_upload_bytes"] == MAX_UPLOAD_BYTES
    assert (card["limits"]["max_pixels"], card["limits"]["max_full_pixels"]) == (50_000_000, 25_000_000)
    answer = predict(client, png_bytes())
    assert card["sha256"] == answer["model"]["sha256"]
    offered = {"method": card["methods"], "branch": card["branches"], "colormap": card["colormaps"]}
    assert (len(card["methods"]), len(card["colormaps"])) == (len(METHODS), len(COLORMAPS))
    for name, values in offered.items():
        for value in values:
            assert client.get(f"{answer['links']['gradcam']}&{name}={value}&format=json").status_code == 200


def test_live_and_ready_are_told(client: httpx.Client) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json() == {"status": "ready"}


def test_the_page_finds_all_that_it_names(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    named = re.findall(r'(?:src|href)="([^":]+)"', page.text)
    assert len(named) >= 3
    assert {name: client.get(f"/{name}").status_code for name in named} == dict.fromkeys(named, 200)
