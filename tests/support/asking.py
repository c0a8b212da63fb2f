"""What the tests of the API send, and how they read what comes back."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from app.api.problems import MEDIA_TYPE
from tests.support.pictures import encoded

PNG = {"content-type": "image/png"}


# What bundles without a trust part do not offer.
LACKING = ("/novelty", "/similar")


def scene(width_px: int = 96, height_px: int = 64) -> Image.Image:
    """Soft colours that differ from corner to corner, with a dark blob off the centre."""
    x, y = np.meshgrid(np.linspace(0, 1, width_px, dtype=np.float32), np.linspace(0, 1, height_px, dtype=np.float32))
    blob = np.exp(-40 * ((x - 0.6) ** 2 + (y - 0.4) ** 2))
    rgb = np.stack([90 + 150 * x, 80 + 160 * y, 220 - 150 * x * y], axis=-1) * (1 - 0.8 * blob[..., None])
    return Image.fromarray(rgb.astype(np.uint8))


def png_bytes(width_px: int = 96, height_px: int = 64) -> bytes:
    """A scene as PNG."""
    return encoded(scene(width_px, height_px), "PNG", compress_level=1)


def noise_bytes(width_px: int, height_px: int) -> bytes:
    """Noise as PNG, uncompressed: three bytes a pixel."""
    noise = np.random.default_rng(0).integers(0, 256, (height_px, width_px, 3), np.uint8)
    return encoded(Image.fromarray(noise), "PNG", compress_level=0)


def predict(client: httpx.Client, picture: bytes) -> dict[str, Any]:
    """The answer to a picture sent as multipart."""
    response = client.post("/predict", files={"file": ("picture", picture)})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def probabilities(answer: dict[str, Any]) -> dict[str, float]:
    """Label to probability, in the order of the answer."""
    return {entry["label"]: entry["probability"] for entry in answer["probabilities"]}


def links_of(answer: dict[str, Any]) -> list[str]:
    """The links of an answer that lead somewhere."""
    return [link for link in answer["links"].values() if link is not None]


def explained(client: httpx.Client, route: str, prediction_id: str, **query: Any) -> dict[str, Any]:
    """An explanation as JSON; its heatmap is an array."""
    response = client.get(route, params={"prediction_id": prediction_id, "format": "json", **query})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer | {"heatmap": np.array(answer["heatmap"])}


def picture_of(response: httpx.Response) -> np.ndarray:
    """The pixels of a PNG that was answered."""
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png"), response.text
    return np.asarray(Image.open(io.BytesIO(response.content), formats=["PNG"]).convert("RGB")).astype(int)


def assert_problem(response: httpx.Response, status: int, name: str) -> str:
    """Check that this is a problem as RFC 9457 has it, of this name. Returns its detail."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    problem = response.json()
    assert (problem["status"], problem["type"]) == (status, f"urn:fusionlens:problem:{name}")
    assert problem["title"] == httpx.codes.get_reason_phrase(status)
    return str(problem["detail"])


def with_manifest(bundle: Path, copy: Path, **fields: Any) -> Path:
    """A copy of a bundle whose manifest says something else in these fields."""
    shutil.copytree(bundle, copy)
    manifest = copy / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | fields, ensure_ascii=False), encoding="utf-8")
    return copy
