"""The model's cut: everything passes through the two maps, each from its own backbone, view and normalisation."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.models.cnnswin import FUSIONS, BranchesHead, CNNViTFusion, ConcatHead, CrossAttentionHead, Fusion
from app.models.feature_maps import FeatureMaps

TWO_BRANCHES: tuple[Fusion, ...] = ("cross_attention", "concat", "late")
Build = Callable[..., CNNViTFusion]


@pytest.fixture
def network_attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What tried to reach the network, which is not there."""
    attempts: list[str] = []

    def refuse(*args: Any, **kwargs: Any) -> None:
        attempts.append(repr(args))
        raise OSError("no network here")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


def same(one: FeatureMaps[Tensor], other: FeatureMaps[Tensor]) -> dict[str, bool]:
    """Branch by branch, whether two pairs of maps are the same to the last bit."""
    pairs = zip(one.items(), other.items(), strict=True)
    return {branch: a == branch and torch.equal(x, y) for (branch, x), (a, y) in pairs}


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_forward_is_classify_of_encode_bit_for_bit(built: Build, images: Tensor, fusion: Fusion, classes: int) -> None:
    model = built(fusion, classes)
    logits = model(images)
    assert logits.shape == (2, classes)
    assert torch.equal(logits, model.classify(model.encode(images))[0])


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("fusion", [*TWO_BRANCHES, "swin"])
@torch.no_grad()
def test_forward_with_tokens_gives_the_same_numbers(built: Build, images: Tensor, fusion: Fusion, classes: int) -> None:
    model, views = built(fusion, classes), (images, images.flip(-1))
    output = model.forward_with_tokens(*views, token_stage=3)
    maps = model.encode(*views)
    attention = model.classify(maps)[1]
    assert torch.equal(output.logits, model(*views))
    assert all(same(output.maps, maps).values())
    assert (output.attention is None) == (attention is None) == (fusion != "cross_attention")
    if attention is not None and output.attention is not None:
        assert torch.equal(output.attention, attention)


def test_tokens_of_every_stage_lead_to_every_logit(small: dict[str, Any], images: Tensor) -> None:
    model = CNNViTFusion(5, **small | {"image_size": (224, 224)}).eval()
    picture = functional.interpolate(images[:1], (224, 224))
    for grid, channels in ((7, 128), (14, 64), (28, 32), (56, 16)):
        output = model.forward_with_tokens(picture, token_stage=grid)
        assert output.tokens.shape == (1, grid, grid, channels)
        for logit in output.logits[0]:
            (gradient,) = torch.autograd.grad(logit, output.tokens, retain_graph=True)
            assert (gradient.norm(dim=-1) > 0).all()


def test_a_wrong_token_stage_is_refused_with_the_choices(built: Build, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"height 7; there are 3, 6, 12, 24$"):
        built().forward_with_tokens(images, token_stage=7)
    with pytest.raises(ValueError, match="no such branch"):
        built("cnn").forward_with_tokens(images, token_stage=3)


@torch.no_grad()
def test_logits_depend_on_the_maps_alone(built: Build, images: Tensor) -> None:
    model = built()
    expected, maps = model(images), model.encode(images)
    model(torch.zeros_like(images))
    assert torch.equal(model.classify(maps)[0], expected)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_no_gradient_reaches_the_picture_around_the_maps(built: Build, images: Tensor, fusion: Fusion) -> None:
    """The whole derivative is the head's at the maps, carried through the trunk (the chain rule)."""
    model, picture = built(fusion, 5), images[:1].clone().requires_grad_()
    maps = model.encode(picture)
    leaves = list(maps.values())
    at_maps = torch.autograd.grad(model.classify(maps)[0][0, 3], leaves)
    (through_maps,) = torch.autograd.grad(leaves, picture, grad_outputs=at_maps)
    (whole,) = torch.autograd.grad(model(picture)[0, 3], picture)
    torch.testing.assert_close(through_maps / whole.abs().max(), whole / whole.abs().max(), rtol=0, atol=1e-4)

    detached = FeatureMaps({branch: feature_map.detach() for branch, feature_map in maps.items()})
    logit = model.classify(detached)[0][0, 3]
    assert torch.autograd.grad(logit, picture, allow_unused=True)[0] is None


@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_a_batch_equals_its_singles(built: Build, images: Tensor, fusion: Fusion) -> None:
    model = built(fusion, 5)
    singles = torch.cat([model(image[None]) for image in images])
    assert (singles[0] - singles[1]).abs().max() > 1e-3
    torch.testing.assert_close(model(images), singles, rtol=0, atol=1e-5)


def normalised_by_timm(images: Tensor, name: str) -> Tensor:
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    channels = zip(images.unbind(1), config.mean, config.std, strict=True)
    return torch.stack([(channel - mean) / std for channel, mean, std in channels], dim=1)


@torch.no_grad()
def test_each_branch_normalises_by_what_its_backbone_was_made_for(built: Build, images: Tensor) -> None:
    model = built()
    assert model.cnn is not None
    cnn_input = normalised_by_timm(images, "tf_efficientnet_lite0")
    torch.testing.assert_close(model.encode(images).cnn, model.cnn.forward_features(cnn_input))
    torch.testing.assert_close(cnn_input, images * 2 - 1)
    buffers = {name for name, _ in model.named_buffers()} & model.state_dict().keys()
    assert buffers >= {"cnn_mean", "cnn_std", "swin_mean", "swin_std"}


@torch.no_grad()
def test_tokens_and_map_are_those_of_timm_on_a_grid_that_is_not_square(built: Build, images: Tensor) -> None:
    model = built()
    assert model.swin is not None
    swin_input = normalised_by_timm(images, "swin_tiny_patch4_window7_224")
    stages = model.swin.forward_intermediates(swin_input, norm=True, intermediates_only=True)
    assert stages[-1].shape == (2, 128, 3, 5)
    torch.testing.assert_close(model.encode(images).transformer, stages[-1])
    for rows, stage in zip((24, 12, 6, 3), stages, strict=True):
        tokens = model.forward_with_tokens(images, token_stage=rows).tokens
        torch.testing.assert_close(tokens, stage.movedim(1, -1))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 4), (2, 0), (1, 2), (2, 4)])
@torch.no_grad()
def test_a_patch_of_the_picture_moves_the_swin_cell_it_lies_under(
    built: Build, images: Tensor, row: int, column: int
) -> None:
    changed = images[:1].clone()
    changed[..., 32 * row : 32 * (row + 1), 32 * column : 32 * (column + 1)] *= -1
    before, after = (built().encode(picture).transformer for picture in (images[:1], changed))
    assert before is not None and after is not None
    change = (after - before).norm(dim=1)[0]
    assert change.shape == (3, 5)
    assert divmod(int(change.argmax()), 5) == (row, column)


@torch.no_grad()
def test_each_view_moves_its_own_map_alone(built: Build, images: Tensor) -> None:
    model, other = built(), images.flip(0)
    maps = model.encode(images)
    assert same(model.encode(images, images), maps) == {"cnn": True, "swin": True}
    assert same(model.encode(other, images), maps) == {"cnn": False, "swin": True}
    assert same(model.encode(images, other), maps) == {"cnn": True, "swin": False}


@torch.no_grad()
def test_only_cross_attention_has_an_attention_and_a_single_branch_has_one_map(built: Build, images: Tensor) -> None:
    for fusion in FUSIONS:
        model = built(fusion)
        maps = model.encode(images)
        assert (model.classify(maps)[1] is None) == (fusion != "cross_attention")
        branches = {fusion} if fusion in ("cnn", "swin") else {"cnn", "swin"}
        assert maps.keys() == branches
        top = {name.split(".")[0] for name in model.state_dict()}
        buffers = {f"{branch}_{statistic}" for branch in branches for statistic in ("mean", "std")}
        assert top == branches | buffers | {"head"}


@torch.no_grad()
def test_late_fusion_is_the_mean_of_two_models_of_one_branch(built: Build, images: Tensor) -> None:
    late = built("late", 5)
    alone = []
    for branch in ("cnn", "swin"):
        model = copy.deepcopy(built(branch, 5))
        model.load_state_dict({name: late.state_dict()[name] for name in model.state_dict()})
        alone.append(model(images))
    torch.testing.assert_close(late(images), (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize(("swin_channels", "dim"), [(768, 512), (256, 256)], ids=["default", "demo"])
def test_heads_on_two_branches_have_as_many_weights_within_5_percent(swin_channels: int, dim: int) -> None:
    shapes = FeatureMaps(cnn=(1280, 7, 7), swin=(swin_channels, 7, 7))
    attention, concat = CrossAttentionHead(shapes, dim, 8, 2, 0.0), ConcatHead(shapes, dim, 2, 0.0)
    heads = (attention, concat, BranchesHead(shapes, dim, 2, 0.0))
    counts = [sum(parameter.numel() for parameter in head.parameters()) for head in heads]
    assert max(counts) <= 1.05 * min(counts)


def test_the_default_model_has_known_shapes_and_names() -> None:
    with torch.device("meta"):
        model = CNNViTFusion(2)
    assert model.map_shapes == FeatureMaps(cnn=(1280, 7, 7), swin=(768, 7, 7))
    assert (model.fusion, model.image_size, model.num_classes) == ("cross_attention", (224, 224), 2)
    attention = [f"attention.{layer}" for layer in ("query", "key", "value", "output", "query_norm", "key_norm")]
    linear = [*attention, "cnn_projection", "swin_projection", "mlp.up", "mlp.down", "classifier"]
    expected = {f"{layer}.{part}" for layer in linear for part in ("weight", "bias")}
    assert set(model.head.state_dict()) == expected | {"attention.query_position", "attention.key_position"}


@torch.no_grad()
def test_maps_that_are_not_the_models_own_are_refused(built: Build, images: Tensor) -> None:
    maps = built("late").encode(images)
    assert maps.cnn is not None and maps.transformer is not None
    one_cell = FeatureMaps(cnn=maps.cnn[..., :1, :1], swin=maps.transformer)
    for fusion, wrong in (("late", FeatureMaps(cnn=maps.cnn)), ("cross_attention", one_cell), ("cnn", maps)):
        with pytest.raises(ValueError, match="this model classifies maps of"):
            built(fusion).classify(wrong)


def test_a_model_that_cannot_be_built_is_refused_with_the_reason(
    small: dict[str, Any], network_attempts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse an unknown fusion first
    with pytest.raises(ValueError, match="cross_attention, concat, late, cnn, swin"):
        CNNViTFusion(2, fusion="sum", **small)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dim 30 is not a multiple of heads 4"):
        CNNViTFusion(2, **small | {"dim": 30})
    for branch in ("cnn", "swin"):
        with pytest.raises(ValueError, match=r"timm defines no model 'hf-hub:timm/resnet18\.a1_in1k'"):
            CNNViTFusion(2, **small | {branch: "hf-hub:timm/resnet18.a1_in1k"})
    assert network_attempts == []


def test_constructing_uses_no_network_and_leaves_a_model_fresh_for_training(
    small: dict[str, Any], network_attempts: list[str]
) -> None:
    model = CNNViTFusion(2, **small)
    assert network_attempts == []
    assert torch.is_grad_enabled() and all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert norm.num_batches_tracked == 0
        assert norm.running_mean is not None and not norm.running_mean.any()
        assert norm.running_var is not None and (norm.running_var == 1).all()
