"""Exports of many architectures and picture sizes: what can be trained becomes graphs that answer as the module does.

`write_graphs` compares every graph with the module itself. Two cases run by default; `make test-matrix` runs all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from torch import Tensor, nn

from app.bundles.graph_names import GRAPHS, LIFTED, TOKENS
from app.bundles.manifest import Architecture
from app.bundles.reader import read_bundle
from app.drawing.png import encode_png
from app.engines.load import load_engine
from app.engines.torch import TorchEngine
from app.errors import NotOffered
from app.models.cnnswin import FUSIONS, CNNViTFusion
from app.pictures.decode import Limits
from app.predicting.predictor import Predictor
from app.predicting.request import AttentionRequest, HeatmapRequest, TokenRequest
from app.trust.calibration import softmax
from tests.models.test_backbones import FAMILIES
from tests.support.asking import scene
from tests.support.bundles import describe, random_model, tiny_reference
from tests.support.without_packages import NO_TORCH, app, started_with
from training.cli import main
from training.data.draw import draw_dataset
from training.export.export import write_bundle
from training.export.graphs import MAX_STORED_ERROR, WITHOUT_TOKENS, check_exportable, write_graphs
from training.loop.plan import check_graphs
from training.recipe.config import ModelConfig, RecipeError

Fields = dict[str, Any]
SWIN, SWIN_V2 = "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"
SIZES = [(size, size) for size in (64, 96, 128, 160, 192, 224, 256, 320, 384)] + [(256, 192), (224, 256), (288, 384)]
TINY_SWIN = {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2]}
FOUR_STAGES = TINY_SWIN | {"depths": [1, 2, 2, 2], "num_heads": [1, 1, 2, 2]}
TINY: Fields = {
    **{"cnn": "test_efficientnet", "swin": SWIN, "swin_options": FOUR_STAGES, "dim": 8, "heads": 2},
    "image_size": (64, 64),
}
CNNS = (
    *("resnet18", "resnet34", "resnet50", "seresnext26t_32x4d", "resnext50_32x4d", "res2net50_26w_4s", "resnetv2_50"),
    *("convnext_atto", "convnextv2_atto", "convnext_tiny", "convnext_nano", "inception_next_atto"),
    *(
        "mobilenetv2_050",
        "mobilenetv3_small_050",
        "mobilenetv3_large_100",
        "mobilenetv4_conv_small_035",
        "mnasnet_small",
    ),
    *("regnetx_002", "regnety_002", "densenet121", "vgg11", "dla34", "hrnet_w18_small", "xception41", "dpn48b"),
    *(
        "efficientnet_b0",
        "tf_efficientnet_b0",
        "tf_efficientnet_lite0",
        "tf_efficientnetv2_b0",
        "tinynet_e",
        "lcnet_035",
    ),
    *("ghostnet_050", "repghostnet_050", "repvgg_a0", "mobileone_s0", "fastvit_t8", "starnet_s1", "rexnet_100"),
    *("nfnet_l0", "eca_nfnet_l0", "edgenext_xx_small", "mobilevit_xxs", "hardcorenas_a"),
    *("cs3darknet_s", "darknet17", "selecsls42", "skresnet18", "resnest14d", "poolformerv2_s12"),
)
LARGER = (("botnet26t_256", 256), ("halonet26t", 256), ("inception_v3", 128))  # which take no 64 px
SWIN_OPTIONS: tuple[Fields, ...] = (
    *({"window_size": window} for window in (1, 2, 3, 4, 5, 8, 16, 32, [4, 2], [2, 8], [[2, 4], [3, 5]])),
    *({"patch_size": patch} for patch in (2, 8, 16)),
    *({"always_partition": True}, {"always_partition": True, "window_size": 12}),
    *({"head_dim": 4}, {"qkv_bias": False}, {"mlp_ratio": 2.0}, {"drop_path_rate": 0.5}),
    *({"depths": [1] * 6, "num_heads": [1] * 6}, {"depths": [2], "num_heads": [2]}),
    {"depths": [3, 1, 4], "num_heads": [1, 2, 4], "window_size": 3},
)
# Their sizes are those of `tests/models/test_backbones.py`.
TRANSFORMERS: dict[str, Fields] = {
    name: {"fusion": "swin", "swin": name, "swin_options": options, "image_size": size}
    for name, (_, size, options, _) in FAMILIES.items()
    if name not in ("mobilevit_xxs", "edgenext_xx_small")
}
ARCHITECTURES: dict[str, Fields] = {
    **TRANSFORMERS,
    **{name: {"cnn": name, "fusion": "cnn"} for name in CNNS},
    **{name: {"cnn": name, "fusion": "cnn", "image_size": (side, side)} for name, side in LARGER},
}
CUTS: dict[str, Fields] = {
    **{
        f"{name}, cut at {reduction} px": {"fusion": "cnn", "cnn": name, "cnn_reduction": reduction}
        for name in ("resnet18", "efficientnet_b0", "convnext_atto")
        for reduction in (8, 16)
    },
    "swin, cut at 8 px": {"fusion": "swin", "swin_reduction": 8},
    "two sizes": {"image_size": (96, 96), "swin_image_size": (64, 64)},
    "both cut": {"cnn": "resnet18", "cnn_reduction": 16, "swin_reduction": 16},
}
MATRIX: dict[str, Fields] = {
    "swin v2": {"fusion": "swin", "swin": SWIN_V2, "swin_options": TINY_SWIN | {"window_size": 4}},
    "swin v2, padded": {"fusion": "swin", "swin": SWIN_V2, "swin_options": TINY_SWIN | {"window_size": 3}},
    **CUTS,
    **{f"{fusion}, {k} classes": {"fusion": fusion, "classes": k} for fusion in FUSIONS for k in (2, 3, 7)},
    **{f"swin, {height} × {width} px": {"fusion": "swin", "image_size": (height, width)} for height, width in SIZES},
    **{f"one row of cells, {width} px": {"image_size": (32, width)} for width in (32, 96)},
    "cnn, 72 × 104 px": {"cnn": "resnet18", "image_size": (72, 104), "fusion": "cnn"},
    "a finer cnn": {"cnn": "resnet18", "cnn_options": {"output_stride": 8}},
    **{f"swin with {each}": {"fusion": "swin", "swin_options": TINY_SWIN | each} for each in SWIN_OPTIONS},
    **{
        f"{name} as it is": {"fusion": "swin", "swin": name, "swin_options": {}}
        for name in (SWIN, "swin_small_patch4_window7_224", "swin_s3_tiny_224")
    },
}
# What OpenVINO has no backward pass of: resampled maps, transposed norms, masks of any size.
WITHOUT: dict[str, Fields] = {
    name: {"fusion": "swin", "swin": swin, "swin_options": options, "image_size": (64, 96)}
    for name, swin, options in (
        ("mobilevit", "mobilevit_xxs", {}),
        ("edgenext", "edgenext_xx_small", {}),
        ("any size", SWIN, TINY_SWIN | {"dynamic_img_size": True}),
    )
}
QUICK = ("swin with {'window_size': 3}", "128 × 128 px", "eva02_tiny_patch14_224", "vit", "mobilevit", "resnet18")


def cases(matrix: dict[str, Fields]) -> list[Any]:
    """A parameter for each case, of which all but the quick ones have the mark `matrix`."""
    return [
        pytest.param(changes, id=name, marks=[] if name in QUICK else pytest.mark.matrix)
        for name, changes in matrix.items()
    ]


def exported(model: CNNViTFusion) -> dict[str, bytes]:
    """All graphs of the model, none of which is lacking."""
    notes: list[str] = []
    files = write_graphs(model, [], notes.append)
    assert set(files) == {*GRAPHS, *LIFTED} | ({TOKENS} if model.swin is not None else set())
    assert notes == []
    return files


@pytest.mark.parametrize("changes", cases(MATRIX))
def test_graphs_answer_as_their_module(changes: Fields) -> None:
    exported(random_model(**(TINY | changes)).half().float())


@pytest.mark.parametrize("changes", cases(ARCHITECTURES))
def test_every_architecture_is_served_and_explained_where_torch_is_not_installed(
    changes: Fields, tmp_path: Path
) -> None:
    config = ModelConfig.model_validate(TINY | changes)
    model = random_model(**config.model_dump()).half().float()
    architecture = Architecture(**config.model_dump(exclude={"image_size"}))
    description = describe(config.fusion).model_copy(update={"architecture": architecture})
    write_bundle(model, tmp_path / "bundle", description, tiny_reference(model), exported(model), None)

    height, width = model.image_size
    picture = scene(width, height)  # of the model's size, so that nothing is scaled
    picture.save(tmp_path / "picture.png")
    env = started_with(NO_TORCH, tmp_path)
    options = ["--explain", "evidence.png"] + (["--tokens", "tokens.png"] if model.swin is not None else [])
    answered = app(env, tmp_path, "predict", "picture.png", "--bundle", "bundle", "--json", *options)
    assert answered.returncode == 0, answered.stderr
    module = TorchEngine(model)
    logits = module.classify(module.encode(np.asarray(picture)[None])) / description.calibration.temperature
    predicted = json.loads(answered.stdout)["probabilities"]
    assert [predicted[name] for name in description.classes] == pytest.approx(softmax(logits)[0], abs=MAX_STORED_ERROR)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in options[1::2])


@pytest.mark.parametrize("changes", cases(WITHOUT))
def test_graphs_that_cannot_explain_tokens_say_so(changes: Fields) -> None:
    model = random_model(**(TINY | changes)).half().float()
    notes: list[str] = []
    before: list[str] = []
    assert set(write_graphs(model, [], notes.append)) == {*GRAPHS, *LIFTED}
    check_exportable(model, before.append)
    assert len(notes) == 1 and notes[0].startswith(WITHOUT_TOKENS) and notes == before


# Sizes of the Swin's grids that are multiples of the window, 7, and that are none; and what else changes the way.
WAYS: dict[str, Fields] = {
    **{f"{height} × {width} px": {"image_size": [height, width]} for height, width in SIZES},
    "swin v2": {"swin": SWIN_V2, "image_size": [128, 128], "swin_options": TINY_SWIN | {"window_size": 4}},
    "another cnn": {"cnn": "resnet18", "image_size": [96, 96]},
    "vit": {
        **{"swin": "vit_small_patch14_dinov2", "image_size": [96, 96], "swin_image_size": [56, 56]},
        **{"swin_options": {"depth": 2, "embed_dim": 24, "num_heads": 2}, "cnn": "resnet18", "cnn_reduction": 16},
    },
    **{f"{fusion}, 160 px": {"fusion": fusion, "image_size": [160, 160]} for fusion in FUSIONS},
}


@pytest.mark.parametrize("changes", cases(WAYS))
def test_what_is_trained_is_exported_served_and_explained(changes: Fields, tmp_path: Path) -> None:
    model = TINY | changes
    recipe = {
        **{"name": "way", "model": {**model, "image_size": list(model["image_size"])}, "batch_size": 4, "workers": 0},
        "stages": [{"name": "all", "epochs": 1}],
    }
    (tmp_path / "way.yaml").write_text(yaml.safe_dump(recipe))
    draw_dataset(tmp_path / "data", 12, seed=0)
    run, folder = str(tmp_path / "run"), tmp_path / "bundle"
    assert main(["fit", str(tmp_path / "way.yaml"), "--data", str(tmp_path / "data"), "--out", run]) == 0
    assert main(["export", run, str(folder), "--positive", "malignant"]) == 0

    bundle = read_bundle(folder)
    predictor = Predictor(bundle, load_engine(bundle, "openvino"), Limits(), preview_side_px=64)
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    prediction, _ = predictor.predict(predictor.open(encode_png(image)))
    assert np.isfinite(predictor.explain_one(prediction, HeatmapRequest()).heatmap).all()
    if model.get("fusion", "cross_attention") == "cross_attention":
        assert np.isfinite(predictor.explain_one(prediction, AttentionRequest()).heatmap).all()
    said = json.loads((folder / "manifest.json").read_text())["notes"]
    if TOKENS in bundle.graphs:
        assert np.isfinite(predictor.explain_one(prediction, TokenRequest()).heatmap).all()
        assert not any(note.startswith(WITHOUT_TOKENS) for note in said)
    else:
        assert [*bundle.manifest.map_shapes] == ["cnn"]
        assert not any(note.startswith(WITHOUT_TOKENS) for note in said)
        with pytest.raises(NotOffered, match="cannot explain the transformer's tokens"):
            predictor.explain_one(prediction, TokenRequest())


@pytest.mark.slow
def test_a_check_before_the_training_says_what_will_be_lacking_and_changes_nothing() -> None:
    model = random_model(**(TINY | WITHOUT["mobilevit"])).train()
    before, state = {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.get_rng_state()
    sentences: list[str] = []
    check_exportable(model, sentences.append)
    (sentence,) = sentences
    assert sentence.startswith(WITHOUT_TOKENS)
    assert check_graphs(ModelConfig.model_validate(TINY | WITHOUT["mobilevit"])) == (sentence,)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules()) and all(p.requires_grad for p in model.parameters())


class Bessel(nn.Module):
    """An activation that OpenVINO does not have."""

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = torch.special.bessel_j0(x)
        return value


class Undecided(nn.Module):
    """An activation that depends on the numbers in a way that no graph can express."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum().item() > 0 else -x


class Remainder(nn.Module):
    """An activation that OpenVINO has, but that no graph of a bundle may have."""

    def forward(self, x: Tensor) -> Tensor:
        return x % 2


REFUSED = [(Bessel, "special_bessel_j0"), (Undecided, "backbones"), (Remainder, "FloorMod of opset1, which no graph")]


@pytest.mark.parametrize(("activation", "reason"), REFUSED)
def test_what_cannot_be_exported_is_refused_before_the_training(
    activation: type[nn.Module], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"of_{activation.__name__.lower()}"

    def backbone(**options: Any) -> nn.Module:
        model: nn.Module = timm.create_model("test_efficientnet", **options)
        model.get_submodule("bn1").act = activation()
        return model

    monkeypatch.setitem(timm.models._registry._model_entrypoints, name, backbone)
    with pytest.raises(RecipeError, match=rf"it could be trained, but not exported: .*{reason}.*; choose another"):
        check_graphs(ModelConfig.model_validate(TINY | {"fusion": "cnn", "cnn": name}))
