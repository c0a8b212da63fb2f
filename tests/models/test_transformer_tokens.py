"""The Swin's tokens: saliency as autograd takes it through the whole model, attention as the block itself pays it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.utils.attention_extract import AttentionExtract
from torch import Tensor

from app.models.cnnswin import CNNViTFusion
from app.models.transformer_tokens import transformer_tokens
from tests.models.test_backbones import FAMILIES, of_family
from tests.support.bundles import tiny_model

# What the last stage's grid is cut into; its second block is shifted where there are several windows.
WINDOWS = {"several": (2, (64, 64)), "one": (7, (64, 64)), "wide": (2, (64, 96)), "padded": (3, (64, 96))}


def with_windows(case: str) -> CNNViTFusion:
    """A tiny model with these windows, whose attention is far from even."""
    window_size, image_size = WINDOWS[case]
    torch.manual_seed(3)
    options: dict[str, Any] = {"embed_dim": 8, "depths": [1, 1, 2], "num_heads": [1, 2, 2], "window_size": window_size}
    model = CNNViTFusion(2, cnn="test_efficientnet", swin_options=options, image_size=image_size, dim=16, heads=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("swin.layers"):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval().requires_grad_(False)


def uploaded(model: CNNViTFusion, count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, *model.image_size, 3), generator=torch.Generator().manual_seed(4)).byte()


def found(model: CNNViTFusion, images: Tensor, gradient: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
    """Each stage's saliency, and the attention."""
    module, shape = transformer_tokens(model), model.map_shapes.transformer
    assert module is not None and shape is not None
    *stages, attention = module(images, torch.zeros(len(images), *shape) if gradient is None else gradient)
    return stages, attention


@pytest.mark.parametrize("case", WINDOWS)
@pytest.mark.parametrize("target", [0, 1])
def test_saliency_of_every_stage_is_gradient_times_token_through_the_whole_model(case: str, target: int) -> None:
    model = with_windows(case).requires_grad_()
    images = uploaded(model)
    pixels = images.permute(0, 3, 1, 2).float() / 255
    maps = model.encode(pixels)
    assert maps.transformer is not None
    (gradient,) = torch.autograd.grad(model.classify(maps)[0][:, target].sum(), maps.transformer)
    stages, _ = found(model, images, gradient)

    for stage in stages:
        output = model.forward_with_tokens(pixels, token_stage=stage.shape[1])
        (by_token,) = torch.autograd.grad(output.logits[:, target].sum(), output.tokens)
        expected = (output.tokens * by_token).abs().sum(dim=-1)
        torch.testing.assert_close(stage, expected, rtol=1e-4, atol=1e-5 * expected.max().item())
    assert len({stage.shape for stage in stages}) == 3


@pytest.mark.parametrize("name", FAMILIES)
def test_saliency_and_attention_of_any_family(name: str) -> None:
    """Saliency as autograd takes it, and rows of attention that sum to 1 less what is paid to prefix tokens."""
    *_, has_attention = FAMILIES[name]
    model = of_family(name)
    module, images = transformer_tokens(model), uploaded(model)
    assert module is not None and module.has_attention == has_attention
    pixels = images.permute(0, 3, 1, 2).float() / 255
    maps = model.encode(pixels)
    leaf = maps[module.branch].requires_grad_()
    (gradient,) = torch.autograd.grad(model.classify(maps)[0][:, 1].sum(), leaf)
    *stages, last = module(images, gradient)
    if has_attention:
        prefix = model.layouts[module.branch].prefix_tokens
        assert (last >= 0).all() and (last.sum(dim=-1) <= 1 + 1e-5).all() and last.sum(dim=-1).mean() > 0.5
        assert prefix or torch.allclose(last.sum(dim=-1), torch.ones(last.shape[:-1]))
    else:
        stages.append(last)
    assert [stage.shape[1] for stage in stages] == [*module.heights]
    model.requires_grad_()
    for stage in stages:
        output = model.forward_with_tokens(pixels, token_stage=stage.shape[1])
        (by_token,) = torch.autograd.grad(output.logits[:, 1].sum(), output.tokens)
        expected = (output.tokens * by_token).abs().sum(dim=-1)
        torch.testing.assert_close(stage, expected, rtol=1e-3, atol=1e-4 * expected.max().item())


def test_the_attention_of_a_vit_is_timms_own() -> None:
    model = of_family("vit_small_patch14_reg4_dinov2")
    module, images = transformer_tokens(model), uploaded(model, count=1)
    assert module is not None
    *_, attention = module(images, torch.zeros(1, *model.map_shapes["vit"]))
    block = model.swin.blocks[-1]
    block.attn.fused_attn = False
    extract = AttentionExtract(model.swin, names=["blocks.1.attn.attn_drop"], mode="eval", method="hook")
    (theirs,) = extract(model.transformer_input(images.permute(0, 3, 1, 2).float() / 255)).values()
    torch.testing.assert_close(attention, theirs[:, :, 5:, 5:])


@pytest.mark.parametrize("case", WINDOWS)
def test_attention_put_back_in_its_places_mixes_values_as_the_block_does(case: str) -> None:
    """On the whole grid: the weights times every cell's value must be what the block adds, window by window."""
    model = with_windows(case)
    images = uploaded(model)
    _, attention = found(model, images)
    last = last_block(model)
    tokens = entering(model, images)
    normed = last.norm1(tokens)
    value = last.attn.qkv(normed).unflatten(-1, (3, last.attn.num_heads, -1))[..., 2, :, :].flatten(1, 2)
    padding = last.attn.qkv.bias.unflatten(0, (3, last.attn.num_heads, -1))[2]  # the value of an empty cell
    mixed = attention @ value.transpose(1, 2) + (1 - attention.sum(dim=-1, keepdim=True)) * padding[:, None]
    added = last.attn.proj(mixed.transpose(1, 2).flatten(2)).reshape(normed.shape)
    torch.testing.assert_close(added, last._attn(normed), rtol=1e-4, atol=1e-5)


def test_attention_is_timms_own_put_together_window_by_window() -> None:
    model = with_windows("several")
    last_block(model).attn.fused_attn = False
    images = uploaded(model, count=1)
    _, attention = found(model, images)
    assert model.swin is not None
    extract = AttentionExtract(model.swin, names=["layers.2.blocks.1.attn.softmax"], mode="eval", method="hook")
    pixels = (images.permute(0, 3, 1, 2).float() / 255 - model.swin_mean) / model.swin_std
    (theirs,) = extract(pixels).values()  # [windows, heads, 4, 4] of windows of 2 × 2, shifted by one on a 4 × 4 grid

    for query in range(16):
        for key in range(16):
            window, slot = window_and_slot(query)
            other, other_slot = window_and_slot(key)
            expected = theirs[window, :, slot, other_slot] if window == other else torch.zeros(2)
            torch.testing.assert_close(attention[0, :, query, key], expected)


def test_rows_add_up_to_one_where_windows_fit() -> None:
    for case in ("several", "one", "wide"):
        model = with_windows(case)
        _, attention = found(model, uploaded(model))
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(attention.shape[:-1]))


def test_a_model_without_a_transformer_has_no_tokens() -> None:
    assert transformer_tokens(tiny_model("cnn")) is None


def last_block(model: CNNViTFusion) -> Any:
    assert model.swin is not None
    return model.swin.layers[-1].blocks[-1]


def entering(model: CNNViTFusion, images: Tensor) -> Tensor:
    """What enters the last block, caught there."""
    caught: list[Tensor] = []
    handle = last_block(model).register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    model.encode(images.permute(0, 3, 1, 2).float() / 255)
    handle.remove()
    return caught[0]


def window_and_slot(cell: int) -> tuple[int, int]:
    """Where a cell of 4 × 4 stands in windows of 2 × 2 after a cyclic shift by one, up and left."""
    row, column = (cell // 4 - 1) % 4, (cell % 4 - 1) % 4
    return (row // 2) * 2 + column // 2, (row % 2) * 2 + column % 2
