"""What is taken along is what the service gives: its bytes, and commands that get the same bytes again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.programs import tool
from tests.support.visit import PATIENCE_S, Visit
from tests.web.conftest import EXAMPLES

NAME = 'it\'s a, "drawn"; one.webp'


@pytest.fixture
def styled(visit: Visit) -> Visit:
    """The page with a question and a style that are not the default ones."""
    visit.choose((NAME, (EXAMPLES / "ragged.webp").read_bytes()))
    visit.wait()
    visit.select("method", "gradcam++")
    visit.select("branch", "cnn")
    visit.select("colormap", "inferno")
    for control, value in (("opacity", 90), ("threshold", 20), ("contour", 50)):
        visit.slide(control, value)
    return visit


QUESTION: dict[str, Any] = {"branch": "cnn", "method": "gradcam++", "target": "malignant"}
STYLE: dict[str, Any] = {"colormap": "inferno", "alpha_max": 0.9, "threshold": 0.2, "contour": 0.5}


def test_overlay_map_and_record_are_the_services_bytes(styled: Visit, service: httpx.Client) -> None:
    identified = {"prediction_id": styled.prediction_id, **QUESTION}
    overlay = styled.save("png")
    assert overlay.path().read_bytes() == service.get("/explain", params={**identified, **STYLE}).content
    assert re.fullmatch(r"[\w.+_-]+-gradcam\+\+-cnn-malignant\.png", overlay.suggested_filename)
    raw = styled.save("npy").path().read_bytes()
    assert raw == service.get("/explain", params={**identified, "format": "npy"}).content
    record = json.loads(styled.save("json").path().read_text())
    assert record["explanation"] == service.get("/explain", params={**identified, "format": "json"}).json()
    assert record["prediction"]["prediction_id"] == identified["prediction_id"]
    assert record["prediction"]["label"] == styled.text("#label") and record["picture"] == NAME


def test_a_comparison_and_a_tokens_map_are_taken_along_as_seen(styled: Visit, service: httpx.Client) -> None:
    prediction = {"prediction_id": styled.prediction_id}
    styled.view("branches")
    compared = {**prediction, "method": "gradcam++", "target": "malignant", "compare": "cnn,swin,fusion"}
    assert styled.save("png").path().read_bytes() == service.get("/explain", params={**compared, **STYLE}).content
    styled.view("tokens")
    styled.page.locator("[data-cell='17']").click()
    styled.select("head", "2")
    token: dict[str, Any] = {**prediction, "layer": "cross", "query": 17, "head": 2}
    assert styled.save("png").path().read_bytes() == service.get("/attention", params={**token, **STYLE}).content
    raw = np.load(styled.save("npy").path())
    np.testing.assert_array_equal(
        raw, np.array(service.get("/attention", params={**token, "format": "json"}).json()["heatmap"], np.float32)
    )


@pytest.mark.parametrize("language", ["curl", "python"])
def test_copied_commands_give_the_same_overlay(
    styled: Visit, service: httpx.Client, language: str, tmp_path: Path
) -> None:
    (tmp_path / NAME).write_bytes((EXAMPLES / "ragged.webp").read_bytes())
    command = styled.copied(language)
    run = ["sh", "-c", command] if language == "curl" else [sys.executable, "-c", command]
    if language == "curl":
        tool("curl")
    without_proxy = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    ran = subprocess.run(run, cwd=tmp_path, env=without_proxy, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ran.returncode == 0, ran.stderr
    with Image.open(tmp_path / "overlay.png") as overlay:
        got = np.asarray(overlay.convert("RGB"))
    identified = {"prediction_id": styled.prediction_id, **QUESTION, **STYLE}
    (tmp_path / "expected.png").write_bytes(service.get("/explain", params=identified).content)
    with Image.open(tmp_path / "expected.png") as expected:
        np.testing.assert_array_equal(got, np.asarray(expected.convert("RGB")))


def test_the_report_is_one_page(styled: Visit) -> None:
    for view in ("evidence", "branches", "tokens"):
        styled.page.emulate_media(media="screen")
        styled.view(view)
        styled.page.emulate_media(media="print")
        report, *said = styled.texts("body", "#answered-at", "#caption")
        assert all(said)
        for told in (NAME, "malignant", "No medical device", "Made by skin-demo 2", *said):
            assert told in report
        for control in ("Choose pictures", "Opacity", "Copy as curl", "Forget"):
            assert control not in report
        content = styled.page.pdf(format="A4", print_background=False)
        assert len(re.findall(rb"/Type\s*/Page\b(?!s)", content)) == 1, view
