"""POST /predict: what the answer holds, and that it does not depend on how the picture was sent."""

from __future__ import annotations

import hashlib
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.settings import Settings
from tests.support.asking import (
    LACKING,
    PNG,
    links_of,
    picture_of,
    png_bytes,
    predict,
    probabilities,
    scene,
    with_manifest,
)
from tests.support.pictures import encoded, exif
from tests.support.serving import serving


def test_the_answer_holds_every_field_of_the_contract(client: httpx.Client, tiny_bundle: Path) -> None:
    asked_at = datetime.now(UTC)
    answer = predict(client, png_bytes(96, 64))
    assert answer["label"] in {"benign", "malignant"}
    assert answer["model"] == {
        "name": "tiny",
        "version": "1",
        "sha256": hashlib.sha256((tiny_bundle / "manifest.json").read_bytes()).hexdigest(),
    }
    seen = {"left_px": 16, "top_px": 0, "width_px": 64, "height_px": 64}
    assert answer["picture"] == {"width_px": 96, "height_px": 64, "format": "PNG", "notes": [], "seen": seen}
    assert answer["expires_at"].endswith("Z")
    lifetime = datetime.fromisoformat(answer["expires_at"]) - asked_at
    assert timedelta(minutes=15) <= lifetime < timedelta(minutes=16)
    assert answer["timings_ms"].keys() == {"decode", "queue", "trunk", "head"}
    assert all(spent >= 0 for spent in answer["timings_ms"].values()) and answer["timings_ms"]["trunk"] > 0
    identified = f"?prediction_id={answer['prediction_id']}"
    links = {name: f"/{name}{identified}" for name in ("explain", "gradcam", "attention", "tokens")}
    lacking = dict.fromkeys(path[1:] for path in LACKING)
    assert answer["links"] == links | lacking | {"picture": f"/predictions/{answer['prediction_id']}/picture"}
    assert [client.get(link).status_code for link in links_of(answer)] == [200] * 5


def test_the_preview_is_what_overlays_are_drawn_on(client: httpx.Client) -> None:
    links = predict(client, encoded(scene(60, 40), "JPEG", quality=95, exif=exif(6)))["links"]
    preview = client.get(links["picture"])
    assert preview.headers["content-type"] == "image/jpeg"
    bare = picture_of(client.get(links["gradcam"] + "&alpha=0&method=eigencam"))
    shown = np.asarray(Image.open(io.BytesIO(preview.content))).astype(int)
    assert shown.shape == bare.shape == (60, 40, 3)
    seen = slice(12, 48)  # within the square that the model saw, and its line
    assert np.array_equal(shown[seen, 2:-2], bare[seen, 2:-2])


def test_probabilities_are_of_all_classes_sorted_and_add_up_to_1(five_classes: httpx.Client) -> None:
    answer = predict(five_classes, png_bytes())
    found = probabilities(answer)
    assert found.keys() == {f"class {i}" for i in range(5)}
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert len(set(found.values())) == 5
    assert sum(found.values()) == pytest.approx(1, abs=1e-9)
    assert answer["label"] == next(iter(found))


def test_a_raw_body_gets_the_answer_of_a_form(client: httpx.Client) -> None:
    picture = png_bytes()
    in_form, raw = predict(client, picture), client.post("/predict", content=picture, headers=PNG).json()
    own = {"prediction_id", "expires_at", "timings_ms", "links"}
    assert in_form["prediction_id"] != raw["prediction_id"]
    assert {name: in_form[name] for name in in_form.keys() - own} == {name: raw[name] for name in raw.keys() - own}


def test_other_fields_of_the_form_are_refused(client: httpx.Client) -> None:
    response = client.post("/predict", files={"file": ("a.png", png_bytes())}, data={"comment": "left ear"})
    assert response.status_code == 422 and "comment" in response.json()["detail"]


def test_an_animation_is_answered_by_its_first_frame_and_says_so(client: httpx.Client) -> None:
    first, second = scene(), Image.new("RGB", (96, 64), "red")
    moving = encoded(first, "WEBP", lossless=True, save_all=True, append_images=[second])
    answer = predict(client, moving)
    assert "first" in " ".join(answer["picture"]["notes"])
    assert probabilities(answer) == probabilities(predict(client, png_bytes()))


def test_the_size_is_that_of_the_upright_picture(client: httpx.Client) -> None:
    answer = predict(client, encoded(scene(96, 64), "JPEG", exif=exif(6)))
    assert (answer["picture"]["width_px"], answer["picture"]["height_px"]) == (64, 96)


@pytest.mark.parametrize("threshold", [0.99, 0.01])
def test_the_label_follows_the_decision_threshold(
    client: httpx.Client, tiny_bundle: Path, tmp_path: Path, threshold: float
) -> None:
    decision = {"positive": "malignant", "threshold": threshold, "chosen_on": "nothing"}
    bundle = with_manifest(tiny_bundle, tmp_path / "bundle", decision=decision)
    with serving(Settings(bundle=bundle)) as other:
        answer = predict(other, png_bytes())
    found = probabilities(answer)
    assert 0.01 < found["malignant"] < 0.99
    assert answer["label"] == ("malignant" if threshold == 0.01 else "benign")
    assert found == probabilities(predict(client, png_bytes()))


def test_without_a_threshold_the_label_is_the_likeliest_class(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = with_manifest(tiny_bundle, tmp_path / "bundle", decision=None)
    with serving(Settings(bundle=bundle)) as client:
        answer = predict(client, png_bytes())
    assert answer["label"] == answer["probabilities"][0]["label"]


def test_the_temperature_softens_the_probabilities(client: httpx.Client, tiny_bundle: Path, tmp_path: Path) -> None:
    stated = json.loads((tiny_bundle / "manifest.json").read_text())["calibration"]
    hotter: dict[str, Any] = stated | {"temperature": 3 * stated["temperature"]}
    bundle = with_manifest(tiny_bundle, tmp_path / "bundle", calibration=hotter)
    with serving(Settings(bundle=bundle)) as other:
        soft = probabilities(predict(other, png_bytes()))
    sharp = probabilities(predict(client, png_bytes()))
    odds = {name: found["malignant"] / found["benign"] for name, found in (("soft", soft), ("sharp", sharp))}
    assert odds["soft"] ** 3 == pytest.approx(odds["sharp"], rel=1e-6)
