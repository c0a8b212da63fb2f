"""The method that a bundle names is the one that is used where none is asked for."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import httpx
import pytest

from app.bundles.manifest import ExplanationChoice
from app.cli import main
from app.models.cnnswin import CNNViTFusion
from tests.support.asking import explained, png_bytes, predict
from tests.support.bundles import describe, tiny_model, tiny_reference
from tests.support.served_process import ROOT, environment, serving
from training.export.export import ExportError, load_card, write_bundle
from training.export.graphs import write_graphs


@cache
def model_and_graphs() -> tuple[CNNViTFusion, dict[str, bytes]]:
    """A tiny model and its compiled graphs, which take seconds and are the same for every method."""
    model = tiny_model().half().float()
    return model, write_graphs(model, [])


def bundle_with(folder: Path, method: str) -> Path:
    model, graphs = model_and_graphs()
    choice = ExplanationChoice(default_method=method, chosen_on="nothing")
    description = describe().model_copy(update={"explanation": choice})
    write_bundle(model, folder, description, tiny_reference(model), graphs, None)
    return folder


def test_a_bundles_own_method_is_the_default_of_service_page_and_command_and_of_nothing_else(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path / "bundle", "hirescam")
    (tmp_path / "picture.png").write_bytes(png_bytes())
    with (
        serving(tmp_path, environment(ROOT), "--bundle", str(bundle)) as served,
        httpx.Client(base_url=served.address, timeout=30) as client,
    ):
        card = client.get("/model").json()
        prediction = predict(client, png_bytes())
        asked = {
            name: explained(client, route, prediction["prediction_id"], **query)["method"]
            for name, route, query in (
                ("nothing", "/explain", {}),
                ("default", "/explain", {"method": "default"}),
                ("another", "/explain", {"method": "integrated"}),
                ("gradcam", "/gradcam", {}),
                ("gradcam by default", "/gradcam", {"method": "default"}),
            )
        }
        sent = client.post("/explain", params={"format": "json"}, files={"file": png_bytes()}).json()
        alike = [
            client.get(
                "/explain", params={"prediction_id": prediction["prediction_id"], "format": "npy", **query}
            ).content
            for query in ({}, {"method": "hirescam"})
        ]
    assert card["default_method"] == card["methods"][0] == "hirescam"
    assert asked == {
        **{"nothing": "hirescam", "default": "hirescam", "another": "integrated", "gradcam": "gradcam"},
        "gradcam by default": "hirescam",
    }
    assert sent["method"] == "hirescam" and alike[0] == alike[1]
    outs = [str(tmp_path / f"{name}.png") for name in ("default", "named")]
    picture = str(tmp_path / "picture.png")
    assert main(["predict", picture, "--bundle", str(bundle), "--explain", outs[0]]) == 0
    assert main(["predict", picture, "--bundle", str(bundle), "--explain", outs[1], "--method", "hirescam"]) == 0
    assert Path(outs[0]).read_bytes() == Path(outs[1]).read_bytes()


@pytest.mark.parametrize("method", ["tomorrows", "eigencam"])
def test_a_method_that_cannot_be_is_refused_when_the_bundle_is_loaded(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_with(tmp_path / "bundle", method)
    assert main(["check", str(bundle)]) == 1
    said = capsys.readouterr().err
    assert f"manifest.json: explanation.default_method is '{method}', which this version cannot use" in said


def test_an_older_format_has_no_such_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = bundle_with(tmp_path / "bundle", "hirescam")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest = {key: value for key, value in manifest.items() if key != "token_attention"} | {"format": 2}
    for key in ("cnn_reduction", "swin_reduction", "swin_image_size"):
        manifest["architecture"].pop(key, None)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert main(["check", str(bundle)]) == 1
    assert "explanation: format 3 is the first with such a key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ("{default_method: hirescan, chosen_on: val}", "no method of a class is 'hirescan': choose one of gradcam"),
        ("{default_method: eigencam, chosen_on: val}", "no method of a class is 'eigencam'"),
        ("{default_methd: hirescam, chosen_on: val}", "did you mean default_method"),
        ("{default_method: hirescam}", "chosen_on is missing"),
    ],
)
def test_a_card_names_a_method_that_there_is(tmp_path: Path, choice: str, sentence: str) -> None:
    card = "name: a\nversion: '1'\nlicence: MIT\ndata: none\nnotes: []\nexplanation: "
    (tmp_path / "card.yaml").write_text(card + choice)
    with pytest.raises(ExportError, match=sentence):
        load_card(tmp_path / "card.yaml")
    (tmp_path / "card.yaml").write_text(card + "{default_method: hirescam, chosen_on: val}")
    chosen = load_card(tmp_path / "card.yaml").explanation
    assert chosen is not None and chosen.default_method == "hirescam"
