"""Grad-CAM over HTTP: the same grid in three formats, over the caller's own picture, and what made it."""

from __future__ import annotations

import io
import json
from itertools import combinations, product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app import __version__
from app.settings import Settings
from tests.support.asking import (
    PNG,
    assert_problem,
    explained,
    picture_of,
    png_bytes,
    predict,
    scene,
    with_manifest,
)
from tests.support.pictures import encoded, exif, turned
from tests.support.serving import serving

VIEWS = ("fusion", "cnn", "swin")
CLASSES = ("benign", "malignant")
FORMATS = ("png", "json", "npy")


@pytest.fixture(scope="module")
def answer(client: httpx.Client) -> dict[str, Any]:
    """The answer to a picture whose explanations are asked for."""
    return predict(client, png_bytes())


@pytest.fixture(scope="module")
def prediction_id(answer: dict[str, Any]) -> str:
    """The id of that answer."""
    return str(answer["prediction_id"])


@pytest.mark.parametrize(("size", "drawn"), [((96, 64), (96, 64)), ((3000, 2000), (1024, 683)), ((1, 40), (1, 40))])
def test_the_overlay_has_the_size_of_the_picture_or_of_its_preview(
    client: httpx.Client, size: tuple[int, int], drawn: tuple[int, int]
) -> None:
    overlay = picture_of(client.get(predict(client, png_bytes(*size))["links"]["gradcam"]))
    assert overlay.shape == (drawn[1], drawn[0], 3)


def test_npy_and_json_hold_the_same_signed_float32_grid(client: httpx.Client, prediction_id: str) -> None:
    grids = []
    for view, target in product(VIEWS, CLASSES):
        query = {"branch": view, "target": target}
        asked = {"prediction_id": prediction_id, "format": "npy", **query}
        response = client.get("/gradcam", params=asked)
        assert response.headers["content-type"] == "application/x-npy"
        grid = np.load(io.BytesIO(response.content), allow_pickle=False)
        assert grid.dtype == np.float32
        same = explained(client, "/gradcam", prediction_id, **query)
        np.testing.assert_array_equal(grid, same["heatmap"].astype(np.float32))
        assert tuple(same["shape"]) == grid.shape
        assert (same["legend"]["minimum"], same["legend"]["maximum"]) == (grid.min(), grid.max())
        grids.append(grid)
    assert min(grid.min() for grid in grids) < 0 < max(grid.max() for grid in grids)


def test_the_fused_map_is_the_sum_of_the_branches_maps(client: httpx.Client, prediction_id: str) -> None:
    fused, cnn, swin = (explained(client, "/gradcam", prediction_id, branch=view) for view in VIEWS)
    assert (cnn["shape"], swin["shape"], fused["shape"]) == ([2, 2], [4, 4], [4, 4])
    dealt_out = np.kron(cnn["heatmap"], np.full((2, 2), 0.25))
    np.testing.assert_allclose(fused["heatmap"], dealt_out + swin["heatmap"], rtol=1e-5, atol=1e-7)


def test_shares_say_how_much_of_the_maps_is_each_branchs(client: httpx.Client, prediction_id: str) -> None:
    maps = {view: explained(client, "/gradcam", prediction_id, branch=view)["heatmap"] for view in ("cnn", "swin")}
    total = sum(np.abs(heatmap).sum() for heatmap in maps.values())
    for view in VIEWS:
        shares = explained(client, "/gradcam", prediction_id, branch=view)["branches"]
        assert shares.keys() == maps.keys()
        for branch, heatmap in maps.items():
            assert shares[branch]["share"] == pytest.approx(np.abs(heatmap).sum() / total, rel=1e-5)
            assert shares[branch]["signed_sum"] == pytest.approx(heatmap.sum(), rel=1e-4, abs=1e-6)


def test_the_target_is_the_answers_label_unless_another_is_asked_for(
    client: httpx.Client, answer: dict[str, Any]
) -> None:
    by_default = explained(client, "/gradcam", answer["prediction_id"])
    asked_for = {name: explained(client, "/gradcam", answer["prediction_id"], target=name) for name in CLASSES}
    assert by_default["target"] == answer["label"]
    assert {name: found["target"] for name, found in asked_for.items()} == {name: name for name in CLASSES}
    np.testing.assert_array_equal(by_default["heatmap"], asked_for[answer["label"]]["heatmap"])
    benign, malignant = (asked_for[name]["heatmap"] for name in CLASSES)
    assert np.abs(benign - malignant).max() > 0.1 * np.abs(benign).max()


@pytest.mark.parametrize("query", [{}, {"branch": "swin", "target": "malignant", "alpha": "0.3", "colormap": "jet"}])
def test_sending_the_picture_gives_what_the_stored_prediction_gives(
    client: httpx.Client, prediction_id: str, query: dict[str, str]
) -> None:
    for wanted in FORMATS:
        asked = query | {"format": wanted}
        stored = client.get("/gradcam", params=asked | {"prediction_id": prediction_id})
        raw = client.post("/gradcam", params=asked, content=png_bytes(), headers=PNG)
        in_form = client.post("/gradcam", params=asked, files={"file": ("a.png", png_bytes())})
        assert stored.status_code == 200
        assert stored.content == raw.content == in_form.content
        assert raw.headers["cache-control"] == "no-store"


def test_the_overlay_of_a_rotated_upload_lies_over_the_upright_picture(client: httpx.Client) -> None:
    upright = np.asarray(scene(96, 64))
    overlays = []
    for orientation in (1, 3, 6, 8):
        stored = Image.fromarray(np.ascontiguousarray(turned(upright, orientation)))
        sent = encoded(stored, "PNG", exif=exif(orientation))
        bare = client.post("/gradcam", params={"alpha": "0"}, content=sent, headers=PNG)
        seen = slice(18, 78)  # columns of the model's square view, without its border
        assert np.abs(picture_of(bare)[:, seen] - upright[:, seen]).mean() < 2
        overlays.append(client.post("/gradcam", content=sent, headers=PNG).content)
    assert len(set(overlays)) == 1


def difference(client: httpx.Client, prediction_id: str, one: dict[str, Any], other: dict[str, Any]) -> float:
    """Mean difference of two overlays, in grey levels."""
    found = [
        picture_of(client.get("/gradcam", params={"prediction_id": prediction_id, **query})) for query in (one, other)
    ]
    return float(np.abs(found[0] - found[1]).mean())


def test_opacity_and_colours_are_those_asked_for(client: httpx.Client, prediction_id: str) -> None:
    bare = {"alpha": 0}
    faint, strong = (difference(client, prediction_id, bare, {"alpha": alpha}) for alpha in (0.2, 0.8))
    assert 0 < 2 * faint < strong
    growing = difference(client, prediction_id, bare, {"alpha_min": 0, "alpha_max": 0.8})
    assert 0 < growing < strong
    assert difference(client, prediction_id, {"alpha": 0.8}, {"alpha_min": 0.8, "alpha_max": 0.8}) == 0
    assert difference(client, prediction_id, {"colormap": "viridis"}, {}) == 0
    assert difference(client, prediction_id, {"colormap": "inferno"}, {}) > 1


def test_size_and_contour_are_those_asked_for(client: httpx.Client, prediction_id: str) -> None:
    asked = {"prediction_id": prediction_id}
    assert max(picture_of(client.get("/gradcam", params=asked | {"size": 48})).shape) == 48
    whole = picture_of(client.get("/gradcam", params=asked))
    assert picture_of(client.get("/gradcam", params=asked | {"size": 5000})).shape == whole.shape
    assert 0 < difference(client, prediction_id, {}, {"contour": 0.5}) < 60


def test_branches_are_compared_in_one_picture(client: httpx.Client, prediction_id: str) -> None:
    asked = {"prediction_id": prediction_id, "target": "malignant"}
    one = picture_of(client.get("/gradcam", params=asked | {"branch": "cnn"}))
    response = client.get("/gradcam", params=asked | {"compare": "cnn,swin,fusion"})
    panels = picture_of(response)
    assert panels.shape[1] > 3 * one.shape[1] and panels.shape[0] > one.shape[0]
    said = json.loads(response.headers["FusionLens-Explanation"])
    assert (said["branch"], said["target"], said["method"]) == ("cnn,swin,fusion", "malignant", "gradcam")
    two = client.get("/gradcam", params=asked | {"compare": "fusion,swin", "method": "layercam", "fuse": "max"})
    assert one.shape[1] * 2 < picture_of(two).shape[1] < panels.shape[1]
    sent_along = client.post("/gradcam", params={"compare": "cnn,swin"}, content=png_bytes(), headers=PNG)
    assert sent_along.status_code == 200


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"compare": "cnn,cnn"}, "each once"),
        ({"compare": "cnn,resnet"}, "name branches"),
        ({"compare": ""}, "name branches"),
        ({"compare": "cnn,swin", "format": "json"}, "leave out format and branch"),
        ({"compare": "cnn,swin", "branch": "cnn"}, "leave out format and branch"),
        ({"compare": "cnn,swin", "fuse": "mean"}, "add fusion to compare"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    client: httpx.Client, prediction_id: str, query: dict[str, str], sentence: str
) -> None:
    response = client.get("/gradcam", params={"prediction_id": prediction_id, **query})
    assert sentence in assert_problem(response, 422, "bad-parameter")


def test_clipping_is_said_in_the_legend_and_seen_in_the_picture(client: httpx.Client, prediction_id: str) -> None:
    whole = explained(client, "/gradcam", prediction_id)
    clipped = explained(client, "/gradcam", prediction_id, clip_low=10, clip_high=60)
    evidence = whole["heatmap"][whole["heatmap"] > 0]
    assert (whole["legend"]["clip"], clipped["legend"]["clip"]) == (None, [10, 60])
    assert (whole["legend"]["low"], whole["legend"]["high"]) == (0, evidence.max())
    ends = [clipped["legend"]["low"], clipped["legend"]["high"]]
    np.testing.assert_allclose(ends, np.percentile(evidence, [10, 60]), rtol=1e-6)
    np.testing.assert_array_equal(clipped["heatmap"], whole["heatmap"])
    assert difference(client, prediction_id, {}, {"clip_low": 10, "clip_high": 60}) > 1


def test_every_explanation_names_what_made_it_also_in_other_scripts(tiny_bundle: Path, tmp_path: Path) -> None:
    fields = {"classes": ["доброе", "злое"], "decision": None, "name": "кожа"}
    with serving(Settings(bundle=with_manifest(tiny_bundle, tmp_path / "bundle", **fields))) as client:
        answer, model = predict(client, png_bytes()), client.get("/model").json()
        asked = {"prediction_id": answer["prediction_id"], "target": "злое"}
        found = {wanted: client.get("/gradcam", params={**asked, "format": wanted}) for wanted in FORMATS}
        sent_along = client.post("/gradcam", params={"target": "злое"}, content=png_bytes(), headers=PNG)
    said = [json.loads(response.headers["FusionLens-Explanation"]) for response in (*found.values(), sent_along)]
    assert said == [said[0]] * 4
    made_by = {"bundle_sha256": answer["model"]["sha256"], "model": "кожа 1", "fusionlens": __version__}
    assert made_by.items() <= said[0]["provenance"].items()
    assert said[0]["provenance"]["engine"].startswith("openvino ")
    assert (said[0]["method"], said[0]["branch"], said[0]["target"]) == ("gradcam", "fusion", "злое")
    assert said[0].items() <= found["json"].json().items()
    assert (model["classes"], model["engine"]) == (fields["classes"], said[0]["provenance"]["engine"])


def test_any_class_of_five_can_be_explained(five_classes: httpx.Client) -> None:
    prediction_id = predict(five_classes, png_bytes())["prediction_id"]
    maps = [explained(five_classes, "/gradcam", prediction_id, target=f"class {i}")["heatmap"] for i in range(5)]
    assert all(np.abs(one - other).max() > 1e-4 for one, other in combinations(maps, 2))


def test_a_model_with_one_branch_explains_it_and_refuses_the_other(cnn_alone: httpx.Client) -> None:
    answer = predict(cnn_alone, png_bytes())
    assert answer["links"]["attention"] is None
    fused, cnn = (explained(cnn_alone, "/gradcam", answer["prediction_id"], branch=view) for view in VIEWS[:2])
    np.testing.assert_array_equal(fused["heatmap"], cnn["heatmap"])
    assert fused["branches"].keys() == {"cnn"}
    asked = {"prediction_id": answer["prediction_id"], "branch": "swin"}
    detail = assert_problem(cnn_alone.get("/gradcam", params=asked), 422, "not-offered")
    assert "fusion, cnn" in detail
    assert cnn_alone.get("/model").json()["branches"] == ["fusion", "cnn"]
