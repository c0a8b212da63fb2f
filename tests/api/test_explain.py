"""`/explain` is the general question, and `/gradcam` the same one with Grad-CAM as its method."""

from __future__ import annotations

import httpx
import pytest

from app.explain.methods import DEFAULT
from tests.support.asking import PNG, explained, png_bytes, predict


def test_explain_asks_for_the_most_faithful_method_and_gradcam_for_grad_cam(client: httpx.Client) -> None:
    prediction_id = predict(client, png_bytes())["prediction_id"]
    assert DEFAULT != "gradcam"
    assert explained(client, "/explain", prediction_id)["method"] == DEFAULT
    assert explained(client, "/gradcam", prediction_id)["method"] == "gradcam"


@pytest.mark.parametrize("query", [{}, {"compare": "cnn,swin,fusion"}, {"format": "json", "target": "benign"}])
def test_but_for_the_default_both_routes_are_one(client: httpx.Client, query: dict[str, str]) -> None:
    identified = query | {"prediction_id": predict(client, png_bytes())["prediction_id"]}
    for method in ("gradcam", "layercam"):
        explain, gradcam = (
            client.get(route, params=identified | {"method": method}) for route in ("/explain", "/gradcam")
        )
        assert explain.content == gradcam.content and explain.status_code == 200
        assert explain.headers["etag"] == gradcam.headers["etag"]
    assert client.get("/gradcam", params=identified).content == (
        client.get("/explain", params=identified | {"method": "gradcam"}).content
    )


def test_a_picture_sent_along_is_explained_likewise(client: httpx.Client) -> None:
    sent = {"content": png_bytes(), "headers": PNG}
    explain = client.post("/explain", params={"format": "json"}, **sent).json()  # type: ignore[arg-type]
    gradcam = client.post("/gradcam", params={"format": "json"}, **sent).json()  # type: ignore[arg-type]
    assert (explain["method"], gradcam["method"]) == (DEFAULT, "gradcam")


def test_the_links_of_a_prediction_name_both(client: httpx.Client) -> None:
    answer = predict(client, png_bytes())
    for name in ("explain", "gradcam"):
        assert answer["links"][name] == f"/{name}?prediction_id={answer['prediction_id']}"
        assert client.get(answer["links"][name]).headers["content-type"] == "image/png"
