"""The Swin's own tokens over HTTP, and finer Grad-CAM: what takes more than the stored maps."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.settings import Settings
from tests.api.test_metrics import samples
from tests.support.asking import assert_problem, explained, picture_of, png_bytes, predict
from tests.support.serving import serving

STAGES = (16, 8, 4)  # of the tiny bundle
PASSES = ("fusionlens_batch_pictures_count",)


@pytest.fixture(scope="module")
def answer(client: httpx.Client) -> dict[str, object]:
    """A prediction to ask about."""
    return predict(client, png_bytes())


def test_a_bundle_that_changed_on_disk_since_the_start_is_said_and_the_rest_goes_on(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    with serving(Settings(bundle=folder, cache=None)) as client:
        (folder / "tokens.xml.gz").unlink()
        query = {"prediction_id": predict(client, png_bytes())["prediction_id"]}
        assert "tokens.xml.gz" in assert_problem(client.get("/tokens", params=query), 503, "bundle-unusable")
        assert client.get("/gradcam", params=query).status_code == 200


@pytest.fixture(scope="module")
def prediction_id(answer: dict[str, object]) -> str:
    return str(answer["prediction_id"])


def test_the_model_says_which_stages_there_are_and_the_prediction_where_they_are(
    client: httpx.Client, answer: dict[str, object], prediction_id: str
) -> None:
    assert client.get("/model").json()["token_stages"] == list(STAGES)
    assert answer["links"]["tokens"] == f"/tokens?prediction_id={prediction_id}"  # type: ignore[index]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_shown_on_its_own_grid(client: httpx.Client, prediction_id: str, stage: int) -> None:
    found = explained(client, "/tokens", prediction_id, token_stage=stage)
    assert found["heatmap"].shape == (stage, stage)
    assert found["heatmap"].min() >= 0 and found["heatmap"].max() > 0
    assert (found["method"], found["units"], found["branch"]) == ("token_saliency", "logit", "swin")
    assert "not whether it speaks for the class" in found["notes"][0]


def test_the_last_stage_is_the_default_and_what_the_stored_maps_give(client: httpx.Client, prediction_id: str) -> None:
    default = explained(client, "/tokens", prediction_id)
    last = explained(client, "/tokens", prediction_id, token_stage=4)
    np.testing.assert_array_equal(default["heatmap"], last["heatmap"])
    # HiResCAM adds up the signed terms whose sizes are added up here.
    hirescam = explained(client, "/gradcam", prediction_id, branch="swin", method="hirescam")["heatmap"]
    assert (default["heatmap"] >= np.abs(hirescam) * (1 - 2e-3)).all()


def test_it_is_of_a_class_or_of_a_contrast(client: httpx.Client, prediction_id: str) -> None:
    def asked(**query: str) -> np.ndarray:
        return np.asarray(explained(client, "/tokens", prediction_id, token_stage=8, **query)["heatmap"])

    benign, malignant = asked(target="benign"), asked(target="malignant")
    assert not np.allclose(benign, malignant, rtol=1e-2)
    contrast = asked(target="benign", against="malignant")
    np.testing.assert_allclose(contrast, asked(target="malignant", against="benign"), rtol=1e-4)


def test_a_picture_sent_along_gives_what_its_stored_prediction_gives(client: httpx.Client, prediction_id: str) -> None:
    sent = client.post("/tokens", params={"format": "json", "token_stage": 8}, files={"file": ("x", png_bytes())})
    stored = explained(client, "/tokens", prediction_id, token_stage=8)["heatmap"]
    np.testing.assert_allclose(np.array(sent.json()["heatmap"]), stored, rtol=1e-4, atol=1e-6 * stored.max())


def test_the_png_is_an_overlay(client: httpx.Client, prediction_id: str) -> None:
    response = client.get("/tokens", params={"prediction_id": prediction_id, "token_stage": 16})
    assert picture_of(response).shape == (64, 96, 3)


@pytest.mark.parametrize(
    ("query", "says"), [({"token_stage": 7}, "choose one of 16, 8, 4"), ({"target": "nothing"}, "choose one of benign")]
)
def test_what_there_is_not_is_refused_with_what_there_is(
    client: httpx.Client, prediction_id: str, query: dict[str, str], says: str
) -> None:
    response = client.get("/tokens", params={"prediction_id": prediction_id, **query})
    assert_problem(response, 422, "bad-parameter")
    assert says in response.json()["detail"]


def test_the_swins_own_attention_is_on_its_own_grid_and_adds_up_to_1(client: httpx.Client, prediction_id: str) -> None:
    found = explained(client, "/attention", prediction_id, layer="swin", query=5, head=1)
    assert found["heatmap"].shape == (4, 4)
    assert found["heatmap"].sum() == pytest.approx(1, abs=1e-5)
    assert (found["heatmap"] > 1e-12).sum() <= 4  # one window of 2 × 2
    assert (found["method"], found["branch"], found["target"]) == ("swin_attention", "swin", None)
    refused = client.get("/attention", params={"prediction_id": prediction_id, "layer": "swin", "method": "gradient"})
    assert_problem(refused, 422, "bad-parameter")


@pytest.mark.parametrize("branch", ["fusion", "cnn", "swin"])
@pytest.mark.parametrize("method", ["gradcam", "integrated", "eigencam"])
def test_fine_detail_has_a_finer_grid_over_the_same_picture(
    client: httpx.Client, prediction_id: str, method: str, branch: str
) -> None:
    coarse = explained(client, "/gradcam", prediction_id, method=method, branch=branch)
    fine = explained(client, "/gradcam", prediction_id, method=method, branch=branch, detail="fine")
    assert fine["heatmap"].shape == (16, 16)  # four times the finest grid of the two
    if fine["units"] == "unitless":
        assert fine["heatmap"].max() == pytest.approx(coarse["heatmap"].max(), rel=0.5)
    assert (coarse["detail"], fine["detail"]) == ("grid", "fine")
    assert "mean over 9 views" in " ".join(fine["notes"])
    assert fine["branches"] == coarse["branches"]


def test_fine_detail_is_the_same_whoever_computes_the_views(client: httpx.Client, prediction_id: str) -> None:
    stored = explained(client, "/gradcam", prediction_id, detail="fine")["heatmap"]
    sent = client.post("/gradcam", params={"format": "json", "detail": "fine"}, files={"file": ("x", png_bytes())})
    np.testing.assert_allclose(np.array(sent.json()["heatmap"]), stored, rtol=1e-3, atol=1e-5 * np.abs(stored).max())


def test_a_mistake_in_a_fine_question_costs_no_pass(tiny_bundle: Path) -> None:
    with serving(Settings(bundle=tiny_bundle)) as client:
        query = {"prediction_id": predict(client, png_bytes())["prediction_id"], "detail": "fine"}
        before = samples(client)[PASSES]
        assert_problem(client.get("/gradcam", params={**query, "target": "nothing"}), 422, "bad-parameter")
        assert samples(client)[PASSES] == before
        assert client.get("/gradcam", params=query).status_code == 200
        assert samples(client)[PASSES] == before + 8
