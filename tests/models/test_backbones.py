"""Backbones: what the fusion model needs is checked, so that nonsense is a sentence wherever a model is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from app.bundles.manifest import MANIFEST
from app.bundles.reader import read_bundle
from app.engines.torch import load_model
from app.errors import BundleError
from app.models.cnnswin import CNNViTFusion
from tests.support.bundles import edit, tiny_architecture, write_tiny_bundle
from training.recipe.config import Recipe, RecipeError
from training.runs.run import build_model

Fields = dict[str, Any]
NO_CNNS = (
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mixer_s16_224",
    "pit_ti_224",
    "resnet18.no_such_tag",
)
NO_SWINS = (
    *("resnet18", "convnext_atto", "vit_tiny_patch16_224", "test_efficientnet", "focalnet_tiny_srf", "nest_tiny"),
    *("maxvit_tiny_tf_224", "pvt_v2_b0", "poolformer_s12", "swinv2_cr_tiny_224", "levit_128s", "mobilevit_xxs"),
)
CNN_OPTIONS: tuple[Fields, ...] = (
    *({"no_such_option": 1}, {"in_chans": 1}, {"num_classes": 5}, {"features_only": True}, {"pretrained": True}),
    *({"pretrained_cfg_overlay": {"file": "/etc/passwd"}}, {"checkpoint_path": "x.pth"}, {"cache_dir": "/tmp"}),
    *({"act_layer": "no_such_activation"}, {"act_layer": 7}, {"norm_layer": "nothing"}, {"drop_path_rate": "much"}),
    *({"stem_size": -3}, {"stem_size": 0}, {"channel_multiplier": 1e12}, {"block_args": [["no"]]}, {"block_args": 3}),
)
SWIN_OPTIONS: tuple[Fields, ...] = (
    *({"no_such_option": 1}, {"img_size": 32}, {"features_only": True}, {"mlp_ratio": "wide"}, {"norm_layer": "no"}),
    *({"depths": []}, {"depths": [1, 0, 1]}, {"depths": "deep"}, {"depths": [1, 1, 1, 1]}, {"num_heads": [0, 1, 1]}),
    *({"embed_dim": 0}, {"embed_dim": -8}, {"embed_dim": 10**9}, {"patch_size": 0}, {"patch_size": 7}),
    *({"patch_size": 1000}, {"window_size": 0}, {"window_size": -2}, {"window_size": [1, 2, 3, 4]}),
    {"window_size": "wide"},
)
# What is asked for, and the key that the sentence must name.
NONSENSE: list[tuple[Fields, str]] = [
    *[({"cnn": name}, "cnn") for name in ("efficientnet_bo", "", " ", "resnet", "hf-hub:timm/resnet18", "../resnet18")],
    *[({"swin": name}, "swin") for name in ("swin_tiny_patch4_window7_244", "", "hf-hub:timm/x", "resnet18.nothing")],
    *[({"cnn": name}, "cnn") for name in NO_CNNS],
    *[({"swin": name, "swin_options": {}}, "swin") for name in NO_SWINS],
    *[({"cnn_options": each}, "cnn") for each in CNN_OPTIONS],
    *[({"swin_options": tiny_architecture().swin_options | each}, "swin|image_size") for each in SWIN_OPTIONS],
    *[({"image_size": size}, "image_size") for size in ((65, 64), (64, 66), (1, 1), (2, 64))],
    ({"heads": 3}, "heads"),
    ({"dim": 15}, "dim"),
]


def tiny(changes: Fields) -> Fields:
    """The arguments of a tiny model with changes."""
    return tiny_architecture().model_dump() | {"image_size": (64, 64)} | changes


@pytest.mark.parametrize(("changes", "key"), NONSENSE, ids=str)
def test_a_model_that_cannot_be_is_a_sentence_about_the_key(changes: Fields, key: str) -> None:
    with pytest.raises(ValueError, match=key) as refused:
        CNNViTFusion(2, **tiny(changes))
    assert type(refused.value) is ValueError and "\n" not in str(refused.value)
    recipe = Recipe.model_validate({"name": "nonsense", "model": tiny(changes)})
    with pytest.raises(RecipeError, match=key):
        build_model(recipe, 2)


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.mark.parametrize(("changes", "key"), [case for case in NONSENSE if "image_size" not in case[0]], ids=str)
def test_a_bundle_of_such_a_model_is_refused(changes: Fields, key: str, bundle_folder: Path) -> None:
    manifest = (bundle_folder / MANIFEST).read_bytes()
    try:
        edit(bundle_folder, lambda fields: fields["architecture"].update(changes))
        with pytest.raises(BundleError):
            load_model(read_bundle(bundle_folder))
    finally:
        (bundle_folder / MANIFEST).write_bytes(manifest)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cnn": "", "fusion": "swin"}, "cnn"),  # the branch is not built, but a bundle names it
        ({"cnn_options": {"pretrained_cfg": "x"}, "fusion": "swin"}, "cnn_options"),
        ({"swin_options": {"drop_rate": float("nan")}, "fusion": "cnn"}, "swin_options"),
    ],
    ids=str,
)
def test_what_no_bundle_could_say_is_refused_before_the_training(changes: Fields, reason: str) -> None:
    recipe = Recipe.model_validate({"name": "nonsense", "model": tiny(changes)})
    with pytest.raises(RecipeError, match=reason):
        build_model(recipe, 2)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("efficientnet_bo", "efficientnet_b0"),
        ("resnet_18", "resnet18"),
        ("mobilnetv3_small_100", "mobilenetv3_small_100"),
    ],
)
def test_a_misspelt_backbone_is_told_with_the_nearest_name(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"timm defines no model '{name}': did you mean .*{meant}"):
        CNNViTFusion(2, **tiny({"cnn": name}))


CNNS = ["resnet18", "convnext_atto", "mobilenetv3_small_050", "regnetx_002", "densenet121", "ghostnet_050", "vgg11"]


@pytest.mark.parametrize("name", CNNS)
def test_a_cnn_of_another_family_is_taken(name: str) -> None:
    model = CNNViTFusion(2, **tiny({"cnn": name, "fusion": "cnn"}))
    assert model.map_shapes["cnn"][1:] == (2, 2)


def test_checking_draws_no_random_numbers_and_leaves_the_backbone_as_it_was() -> None:
    torch.manual_seed(0)
    model = CNNViTFusion(2, **tiny({"fusion": "cnn"}))
    assert model.training and all(module.training for module in model.modules())
    assert all(buffer == 0 for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked"))
    assert model.get_buffer("cnn.bn1.running_mean").eq(0).all()
