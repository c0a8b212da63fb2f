"""What is drawn, saved and shown is what the service draws and answers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from fusionlens_client import Client, Drawing, InvalidInput, Prediction
from PIL import Image

from tests.support.asking import png_bytes


@pytest.fixture(scope="module")
def prediction(client: Client) -> Prediction:
    return client.predict(png_bytes())


def drawn(service: httpx.Client, path: str, prediction: Prediction, **query: object) -> bytes:
    """The service's own PNG."""
    response = service.get(path, params={"prediction_id": str(prediction.prediction_id), **query})  # type: ignore[dict-item]
    assert response.headers["content-type"] == "image/png"
    return response.content


def test_the_overlay_is_the_services_png(service: httpx.Client, prediction: Prediction) -> None:
    heatmap = prediction.explain(method="gradcam", target="benign", branch="cnn")
    expected = drawn(service, "/explain", prediction, method="gradcam", target="benign", branch="cnn")
    assert heatmap.png() == heatmap._repr_png_() == expected != drawn(service, "/explain", prediction)
    assert heatmap.overlay.tobytes() == Image.open(io.BytesIO(expected)).tobytes()


def test_a_drawing_has_what_was_asked_for(service: httpx.Client, prediction: Prediction) -> None:
    given = {"colormap": "magma", "alpha_min": 0.2, "alpha_max": 0.9, "clip_low": 5.0, "clip_high": 95.0}
    given |= {"size": 48, "contour": 0.5, "threshold": 0.1}
    expected = drawn(service, "/attention", prediction, **given)
    assert prediction.attention().png(Drawing(**given)) == expected != prediction.attention().png()  # type: ignore[arg-type]
    assert prediction.tokens().png(Drawing(alpha=1.0)) == drawn(service, "/tokens", prediction, alpha=1.0)


def test_a_map_of_every_class_is_drawn_for_the_label(prediction: Prediction) -> None:
    every = prediction.explain(target="*")
    assert every.every_class is not None and {*every.every_class} == {*prediction.probabilities}
    assert every.png() == prediction.explain().png()


def test_a_file_holds_what_its_suffix_says(service: httpx.Client, prediction: Prediction, tmp_path: Path) -> None:
    heatmap = prediction.novelty()
    for name in ("map.png", "map.npy", "MAP.NPY", "map.json"):
        heatmap.save(tmp_path / name)
    heatmap.save(str(tmp_path / "again.png"))
    assert (tmp_path / "map.png").read_bytes() == drawn(service, "/novelty", prediction)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "map.png").read_bytes()
    loaded = np.load(tmp_path / "map.npy", allow_pickle=False)
    assert loaded.dtype == np.float32 and np.array_equal(loaded, heatmap.array)
    assert (tmp_path / "MAP.NPY").read_bytes() == (tmp_path / "map.npy").read_bytes()
    assert json.loads((tmp_path / "map.json").read_text(encoding="utf-8")) == heatmap.answer
    assert {file.name for file in tmp_path.iterdir()} == {"map.png", "again.png", "map.npy", "MAP.NPY", "map.json"}


@pytest.mark.parametrize("name", ["map.jpg", "map", "png"])
def test_another_suffix_is_refused(prediction: Prediction, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match=r"\.png, \.npy, \.json"):
        prediction.explain().save(tmp_path / name)
    assert not [*tmp_path.iterdir()]


def test_the_picture_is_the_services_preview(service: httpx.Client, prediction: Prediction) -> None:
    raw = service.get(f"/predictions/{prediction.prediction_id}/picture").content
    assert prediction.picture.tobytes() == Image.open(io.BytesIO(raw)).tobytes()
    assert prediction.picture.size == (96, 64)
