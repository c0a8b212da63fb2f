"""Backbones: what the fusion model needs is checked, so that nonsense is a sentence wherever a model is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from app.bundles.manifest import MANIFEST
from app.bundles.reader import read_bundle
from app.engines.torch import load_model
from app.errors import BundleError
from app.models.backbones import stage_tokens
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
# No grid; other sizes than 64 × 64 px; the same backbone for both branches.
NO_TRANSFORMERS = ("pit_ti_224", "crossvit_tiny_240", "vit_small_patch14_dinov2", "test_efficientnet")
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
    *[({"cnn": name}, "not a feature map") for name in ("vit_tiny_patch16_224", "swinv2_tiny_window8_256")],
    ({"swin": "test_efficientnet.r160_in1k", "swin_options": {}}, "both branches would be"),
    *[({"cnn": "hrnet_w18_small", "cnn_reduction": reduction}, "cnn_reduction") for reduction in (4, 16)],
    *[({"swin": name, "swin_options": {}}, "swin|image_size") for name in NO_TRANSFORMERS],
    ({"swin": "pvt_v2_b0", "swin_options": {"img_size": 64}}, "swin"),
    *[({"cnn_reduction": reduction}, "cnn_reduction") for reduction in (1, 64)],
    *[({"swin_reduction": reduction}, "swin_reduction") for reduction in (2, 32)],
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
        ("mobilenetv4", "mobilenetv4_conv_"),
        ("ConvNeXt-Tiny", "convnext_tiny"),
        ("VIT_TINY_PATCH16_224", "vit_tiny_patch16_224"),
        ("dinov2", "patch14_dinov2"),
        ("dinov2_vits14", "patch14_dinov2"),
        ("Swin", "swin_"),
    ],
)
def test_a_misspelt_backbone_is_told_with_the_nearest_name(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"timm defines no model '{name}': did you mean .*{meant}"):
        CNNViTFusion(2, **tiny({"cnn": name}))


# Transformers of many families, with a size of pictures and, to be quick, few blocks: how their branch is named, and
# whether the attention of their last block is one between all cells, or all of a window.
SMALL_SWIN: Fields = {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 2}
FAMILIES: dict[str, tuple[str, tuple[int, int], Fields, bool]] = {
    "swin_tiny_patch4_window7_224": ("swin", (64, 96), SMALL_SWIN, True),
    "swinv2_tiny_window8_256": ("swin", (64, 96), SMALL_SWIN, True),
    "vit_tiny_patch16_224": ("vit", (64, 96), {"depth": 2}, True),
    "deit3_small_patch16_224": ("vit", (64, 96), {"depth": 2}, True),
    "deit_tiny_distilled_patch16_224": ("vit", (64, 96), {"depth": 2}, True),
    "vit_small_patch14_dinov2": ("vit", (56, 84), {"depth": 2}, True),
    "vit_small_patch14_reg4_dinov2": ("vit", (56, 84), {"depth": 2}, True),
    "vit_base_patch16_siglip_224": ("vit", (64, 96), {"depth": 1}, True),
    "eva02_tiny_patch14_224": ("vit", (56, 84), {"depth": 2}, True),
    "beit_base_patch16_224": ("vit", (64, 96), {"depth": 1}, True),
    "cait_xxs24_224": ("vit", (64, 96), {"depth": 2}, False),
    "xcit_nano_12_p16_224": ("vit", (64, 96), {"depth": 2}, False),
    "maxvit_rmlp_pico_rw_256": ("vit", (256, 256), {}, False),
    "coatnet_pico_rw_224": ("vit", (64, 96), {}, False),
    "pvt_v2_b0": ("vit", (64, 96), {}, False),
    "mvitv2_tiny": ("vit", (224, 224), {}, False),
    "hiera_tiny_224": ("vit", (224, 224), {}, False),
    "levit_128s": ("vit", (224, 224), {}, False),
    "davit_tiny": ("vit", (64, 96), {}, False),
    "focalnet_tiny_srf": ("vit", (64, 96), {}, False),
    "poolformer_s12": ("vit", (64, 96), {}, False),
    "convnext_atto": ("vit", (64, 96), {}, False),
    "edgenext_xx_small": ("vit", (64, 96), {}, False),
    "mobilevit_xxs": ("vit", (64, 96), {}, False),
}


def of_family(name: str, **changes: Any) -> CNNViTFusion:
    """A model in eval mode whose transformer is of this family."""
    _, size, options, _ = FAMILIES[name]
    given = {"swin": name, "swin_options": options, "image_size": size} | changes
    torch.manual_seed(0)
    return CNNViTFusion(2, **tiny(given)).eval().requires_grad_(False)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_map_of_any_transformer_is_timms_own_after_its_norm(name: str) -> None:
    branch, size, _, _ = FAMILIES[name]
    model, image = of_family(name), torch.rand(2, 3, *FAMILIES[name][1])
    assert [*model.map_shapes] == ["cnn", branch]
    found = model.encode(image).transformer
    assert found is not None
    pixels = model.transformer_input(image)
    assert torch.isin(found, model.swin.forward_features(pixels)).all()  # to the last bit
    try:
        (last,) = model.swin.forward_intermediates(pixels, indices=1, norm=True, intermediates_only=True)
    except AssertionError:  # a model without a norm
        (last,) = model.swin.forward_intermediates(pixels, indices=1, intermediates_only=True)
    torch.testing.assert_close(found, last, rtol=1e-4, atol=1e-5)
    assert size[0] * found.shape[3] == size[1] * found.shape[2]


CUTS = [
    *[("cnn", name, 16) for name in ("resnet18", "convnext_atto", "efficientnet_b0", "mobilenetv4_conv_small")],
    *[("cnn", name, 8) for name in ("regnety_002", "densenet121")],
    *[("swin", name, 8) for name in ("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256")],
    *[("swin", name, 16) for name in ("pvt_v2_b0", "davit_tiny", "focalnet_tiny_srf", "convnext_atto")],
    *[("swin", name, 16) for name in ("coat_lite_tiny", "twins_svt_small")],  # whose earlier stages have another grid
]


@pytest.mark.parametrize(("branch", "name", "reduction"), CUTS)
def test_a_cut_gives_the_map_of_an_earlier_stage_and_drops_the_later_ones(
    branch: str, name: str, reduction: int
) -> None:
    size: tuple[int, int] = (64, 96)
    options = {"depths": [1, 1, 2], "embed_dim": 8, "num_heads": [1, 2, 2]} if name.startswith("swin") else {}
    given = {branch: name, f"{branch}_options": options, "image_size": size, "fusion": branch}
    torch.manual_seed(0)
    whole = CNNViTFusion(2, **tiny(given)).eval()
    cut = CNNViTFusion(2, **tiny(given | {f"{branch}_reduction": reduction})).eval()
    missing, _ = cut.load_state_dict(
        {key: value for key, value in whole.state_dict().items() if not key.startswith("head.")}, strict=False
    )
    assert all(key.startswith("head.") for key in missing)
    count, of_whole = (sum(one.numel() for one in getattr(model, branch).parameters()) for model in (cut, whole))
    assert count < 0.9 * of_whole
    image = torch.rand(2, 3, *size)
    (found,) = cut.encode(image).values()
    assert found.shape[2:] == (size[0] // reduction, size[1] // reduction)
    mean, std = (getattr(whole, f"{branch}_{statistic}") for statistic in ("mean", "std"))
    backbone = getattr(whole, branch)
    every = backbone.forward_intermediates((image - mean) / std, intermediates_only=True)
    expected = [stage for stage in every if stage.shape[2:] == found.shape[2:]][-1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_stage_whose_channels_lie_elsewhere_than_those_of_the_map_has_no_tokens() -> None:
    sam: Fields = {"depth": 2, "embed_dim": 24, "num_heads": 2}  # its blocks give NHWC, and its neck NCHW
    given = {"swin": "samvit_base_patch16_224", "swin_options": sam, "image_size": (64, 96)}
    model = CNNViTFusion(2, **tiny(given)).eval()
    with torch.inference_mode():
        stages = stage_tokens(model.swin, model.layouts["vit"], torch.rand(1, 3, 64, 96))
    assert [tuple(tokens.shape[1:3]) for tokens in stages] == [(4, 6)]


def test_the_last_stage_by_its_own_size_is_the_whole_backbone() -> None:
    options = tiny_architecture().swin_options
    models = [CNNViTFusion(2, **tiny({"swin_reduction": each, "swin_options": options})) for each in (None, 16)]
    names = [set(model.state_dict()) for model in models]
    assert names[0] == names[1]


@torch.no_grad()
def test_the_transformer_may_see_the_picture_at_another_size() -> None:
    sizes = {"image_size": (96, 144), "swin_image_size": (64, 96)}
    model, image = CNNViTFusion(2, **tiny(sizes)).eval(), torch.rand(2, 3, 96, 144)
    assert (model.map_shapes["cnn"][1:], model.map_shapes["swin"][1:]) == ((3, 5), (4, 6))
    smaller = functional.interpolate(image, (64, 96), mode="bicubic", antialias=True)
    expected = model.swin.forward_features((smaller - model.swin_mean) / model.swin_std).movedim(-1, 1)
    torch.testing.assert_close(model.encode(image)["swin"], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"swin_image_size: .* another shape"):
        CNNViTFusion(2, **tiny(sizes | {"swin_image_size": (64, 64)}))


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
