"""`/novelty`: which parts of a picture are foreign, as a map of no class."""

from __future__ import annotations

import io
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.bundles.reader import read_bundle
from app.drawing.png import encode_png
from app.engines.load import load_engine
from app.pictures.decode import Limits
from app.predicting.predictor import Predictor
from app.trust.fitted import trust_of
from tests.support.asking import assert_problem, explained, picture_of, png_bytes, predict
from tests.support.trusted import scenes


def test_the_map_is_the_distance_of_each_cell_above_the_limit(trusting: httpx.Client, trusted: Path) -> None:
    content = encode_png(scenes(1, 5)[0])
    answer = predict(trusting, content)
    assert answer["links"]["novelty"] == f"/novelty?prediction_id={answer['prediction_id']}"
    found = explained(trusting, "/novelty", answer["prediction_id"])
    bundle = read_bundle(trusted)
    predictor = Predictor(bundle, load_engine(bundle, "auto"), Limits(), 64)
    prediction, _ = predictor.predict(predictor.open(content))
    fitted, rule = trust_of(bundle), bundle.manifest.trust
    assert fitted is not None and fitted.parts is not None and rule is not None
    expected = fitted.parts.distances(prediction.maps.map(lambda each: each.astype(np.float32)))
    np.testing.assert_allclose(found["heatmap"], expected - fitted.parts.limit(rule.inside), atol=1e-3)
    assert (found["target"], found["against"], found["branch"], found["branches"]) == (None, None, None, {})
    assert found["units"] == "standard deviations" and "whatever the class" in found["notes"][0]
    assert found["no_positive_evidence"] == bool((found["heatmap"] <= 0).all())


def test_every_format_and_a_picture_that_is_sent_give_the_same_map(trusting: httpx.Client) -> None:
    content = encode_png(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    query = {"prediction_id": predict(trusting, content)["prediction_id"]}
    heatmap = explained(trusting, "/novelty", query["prediction_id"])["heatmap"]
    assert heatmap.max() > 0  # noise is foreign to a model of smooth scenes
    npy = trusting.get("/novelty", params={**query, "format": "npy"})
    np.testing.assert_allclose(np.load(io.BytesIO(npy.content)), heatmap, rtol=1e-6)
    overlay = trusting.get("/novelty", params=query)
    assert picture_of(overlay).shape == (64, 64, 3) and "foreign_parts" in overlay.headers["fusionlens-explanation"]
    assert len(overlay.content) <= 2 << 20
    sent = trusting.post("/novelty", params={"format": "json"}, files={"file": ("x", content)})
    np.testing.assert_allclose(sent.json()["heatmap"], heatmap, atol=1e-6)


def test_fine_detail_has_four_times_as_many_cells_along_a_side(trusting: httpx.Client, trusted: Path) -> None:
    grey = np.full((64, 64, 3), 90, np.uint8)  # its moved views are the same picture
    prediction_id = predict(trusting, encode_png(grey))["prediction_id"]
    grid = explained(trusting, "/novelty", prediction_id)["heatmap"]
    fine = explained(trusting, "/novelty", prediction_id, detail="fine")
    finest = max(side for _, side, _ in read_bundle(trusted).manifest.map_shapes.values())
    assert fine["heatmap"].shape == (4 * finest, 4 * finest) and fine["detail"] == "fine"
    np.testing.assert_allclose(fine["heatmap"][::4, ::4], grid, atol=1e-3)
    assert not any("Branch shares" in note for note in fine["notes"])


@pytest.mark.parametrize("query", [{"target": "benign"}, {"detail": "finest"}, {"method": "gradcam"}])
def test_what_the_map_has_not_is_refused(trusting: httpx.Client, query: dict[str, str]) -> None:
    prediction_id = predict(trusting, png_bytes())["prediction_id"]
    assert_problem(trusting.get("/novelty", params={"prediction_id": prediction_id, **query}), 422, "bad-parameter")


def test_a_bundle_without_the_part_says_what_adds_it(client: httpx.Client) -> None:
    answer = predict(client, png_bytes())
    assert answer["links"]["novelty"] is None and client.get("/model").json()["novelty"] is False
    response = client.get("/novelty", params={"prediction_id": answer["prediction_id"]})
    assert "fusionlens-train trust" in assert_problem(response, 422, "not-offered")
