"""The model's laws: one cut that everything passes, no norm on the value path, attention over real cells.

Most pictures here are 96 × 160 px, so that the maps are 3 × 5 cells and rows cannot pass for columns.
"""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.functional import normalize

from app.models.cnnswin import FUSIONS, CNNViTFusion, CrossModelAttention, Fusion, ResidualMLP
from app.models.feature_maps import BRANCHES, FeatureMaps

SMALL: dict[str, Any] = {
    "cnn": "tf_efficientnet_lite0",
    "swin_options": {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)},
    "image_size": (96, 160),
    "dim": 32,
    "heads": 4,
}
DEMO: dict[str, Any] = {
    "cnn": "tf_efficientnet_lite0",
    "swin_options": {"embed_dim": 32, "num_heads": (2, 4, 8, 16)},
    "dim": 256,
}
TWO_BRANCHES: tuple[Fusion, ...] = ("cross_attention", "concat", "late")
WITH_SWIN: tuple[Fusion, ...] = (*TWO_BRANCHES, "swin")
Build = Callable[..., CNNViTFusion]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine make these small pictures 20 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def built() -> Build:
    """Small seeded models in eval mode, each built once: a test that changes one works on a copy."""

    @cache
    def build(fusion: Fusion = "cross_attention", classes: int = 2) -> CNNViTFusion:
        torch.manual_seed(0)
        return CNNViTFusion(classes, fusion=fusion, **SMALL).eval()

    return build


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 96, 160, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Every attempt to reach the network, each of which fails."""
    attempts: list[tuple[Any, ...]] = []

    def refuse(*args: Any, **kwargs: Any) -> None:
        attempts.append(args)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


def maps_equal(one: FeatureMaps[Tensor], other: FeatureMaps[Tensor]) -> bool:
    pairs = list(zip(one.items(), other.items(), strict=True))
    return bool(pairs) and all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def layer_normed(maps: FeatureMaps[Tensor]) -> FeatureMaps[Tensor]:
    """The fault that the head must not have: each cell of both maps normalised over its channels."""
    return FeatureMaps(
        **{
            branch: functional.layer_norm(m.movedim(1, -1), m.shape[1:2], eps=0.0).movedim(-1, 1)
            for branch, m in maps.items()
        }
    )


# --- one cut -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_forward_is_classify_of_encode_bit_for_bit(built: Build, images: Tensor, fusion: Fusion, classes: int) -> None:
    model = built(fusion, classes)
    logits = model(images)
    assert logits.shape == (2, classes)
    assert torch.equal(logits, model.classify(model.encode(images))[0])


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("fusion", WITH_SWIN)
@torch.no_grad()
def test_forward_with_tokens_gives_the_same_numbers(
    built: Build, images: Tensor, fusion: Fusion, classes: int
) -> None:
    model = built(fusion, classes)
    output = model.forward_with_tokens(images, images.flip(-1), token_stage=3)
    maps = model.encode(images, images.flip(-1))
    attention = model.classify(maps)[1]
    assert torch.equal(output.logits, model(images, images.flip(-1)))
    assert maps_equal(output.maps, maps)
    if fusion == "cross_attention":
        assert attention is not None and output.attention is not None
        assert torch.equal(output.attention, attention)
    else:
        assert output.attention is None and attention is None


@torch.no_grad()
def test_logits_depend_on_the_maps_alone(built: Build, images: Tensor) -> None:
    model = built()
    expected, maps = model(images), model.encode(images)
    model(torch.zeros_like(images))
    assert torch.equal(model.classify(maps)[0], expected)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_no_gradient_reaches_the_picture_around_the_maps(built: Build, images: Tensor, fusion: Fusion) -> None:
    model = copy.deepcopy(built(fusion, 5)).double()
    picture = images[:1].double().requires_grad_()
    maps = model.encode(picture)
    leaves = [feature_map for _, feature_map in maps.items()]
    score = model.classify(maps)[0][0, 3]
    at_maps = torch.autograd.grad(score, leaves, retain_graph=True)
    (through_maps,) = torch.autograd.grad(leaves, picture, grad_outputs=at_maps)
    (whole,) = torch.autograd.grad(model(picture)[0, 3], picture)
    assert whole.abs().max() > 0
    torch.testing.assert_close(through_maps, whole, rtol=0, atol=1e-9 * whole.abs().max().item())

    detached = FeatureMaps(**{branch: feature_map.detach() for branch, feature_map in maps.items()})
    score = model.classify(detached)[0][0, 3]
    assert torch.autograd.grad(score, picture, allow_unused=True) == (None,)


@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_a_batch_equals_its_singles(built: Build, images: Tensor, fusion: Fusion) -> None:
    model = built(fusion, 5)
    singles = torch.cat([model(image[None]) for image in images])
    assert (singles[0] - singles[1]).abs().max() > 1e-3
    torch.testing.assert_close(model(images), singles, rtol=0, atol=1e-5)


@torch.no_grad()
def test_maps_that_are_not_the_models_own_are_refused(built: Build, images: Tensor) -> None:
    maps = built("late").encode(images)
    assert maps.cnn is not None
    for wrong in (FeatureMaps(cnn=maps.cnn), FeatureMaps(maps.cnn[..., :1, :1], maps.swin), FeatureMaps(maps.cnn, maps.cnn)):
        with pytest.raises(ValueError, match="this model classifies maps of"):
            built("late").classify(wrong)
    with pytest.raises(ValueError, match="this model classifies maps of"):
        built("cnn").classify(maps)


# --- tokens ------------------------------------------------------------------------------------------------------


def test_tokens_of_every_stage_lead_to_the_logits(images: Tensor) -> None:
    model = CNNViTFusion(5, **SMALL | {"image_size": (224, 224)}).eval()
    picture = functional.interpolate(images[:1], (224, 224))
    for grid, channels in ((7, 128), (14, 64), (28, 32), (56, 16)):
        output = model.forward_with_tokens(picture, token_stage=grid)
        assert output.tokens.shape == (1, grid, grid, channels)
        for k in range(5):
            (gradient,) = torch.autograd.grad(output.logits[0, k], output.tokens, retain_graph=True)
            assert (gradient.norm(dim=-1) > 0).all()


@torch.no_grad()
def test_tokens_are_those_that_timm_gives_for_each_stage(built: Build, images: Tensor) -> None:
    model = built()
    normalised = normalize(images, *imagenet())
    stages = model.swin.forward_intermediates(normalised, norm=True, intermediates_only=True)
    for rows, stage in zip((24, 12, 6, 3), stages, strict=True):
        tokens = model.forward_with_tokens(images, token_stage=rows).tokens
        torch.testing.assert_close(tokens, stage.movedim(1, -1), rtol=0, atol=1e-5)


def test_a_wrong_token_stage_is_refused_with_the_choices(built: Build, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"height 7; there are 3, 6, 12, 24$"):
        built().forward_with_tokens(images)
    with pytest.raises(ValueError, match="no Swin branch"):
        built("cnn").forward_with_tokens(images)


# --- attention ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finer_cnn() -> CNNViTFusion:
    """A model whose CNN map has 6 × 10 cells, its Swin's 3 × 5: queries cannot pass for keys. In float64."""
    torch.manual_seed(2)
    return CNNViTFusion(5, cnn_options={"output_stride": 16}, **SMALL).eval().double()


@torch.no_grad()
def test_every_swin_cell_spreads_its_attention_over_every_cnn_cell(finer_cnn: CNNViTFusion, images: Tensor) -> None:
    maps = finer_cnn.encode(images.double())
    assert maps.cnn is not None and maps.cnn.shape[2:] == (6, 10)
    attention = finer_cnn.classify(maps)[1]
    assert attention is not None and attention.shape == (2, 4, 3 * 5, 6 * 10)
    assert attention.min() > 0
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 4, 15).double())
    distances = torch.cdist(attention, attention) + torch.eye(15)
    assert distances.min() > 1e-3, "two queries look at the same cells"


@pytest.mark.parametrize("dim", [-2, -1])
@pytest.mark.parametrize("branch", BRANCHES)
@torch.no_grad()
def test_attention_lies_row_by_row_on_both_grids(
    finer_cnn: CNNViTFusion, images: Tensor, branch: str, dim: int
) -> None:
    """A map turned upside down, with the positions of its cells, turns the attention and leaves the logits."""
    maps = finer_cnn.encode(images.double())
    logits, attention = finer_cnn.classify(maps)
    turned = copy.deepcopy(finer_cnn)
    positions = turned.head.get_parameter(f"attention.{'key' if branch == 'cnn' else 'query'}_position")
    positions.copy_(positions.flip(dim - 1))
    turned_maps = FeatureMaps(**{b: m.flip(dim) if b == branch else m for b, m in maps.items()})
    turned_logits, turned_attention = turned.classify(turned_maps)
    assert attention is not None and turned_attention is not None

    grids = attention.unflatten(-1, (6, 10)) if branch == "cnn" else attention.mT.unflatten(-1, (3, 5))
    turned_grids = turned_attention.unflatten(-1, (6, 10)) if branch == "cnn" else turned_attention.mT.unflatten(-1, (3, 5))
    torch.testing.assert_close(turned_logits, logits)
    torch.testing.assert_close(turned_grids, grids.flip(dim))


@torch.no_grad()
def test_cross_model_attention_is_scaled_dot_product_attention_head_by_head() -> None:
    torch.manual_seed(3)
    module = CrossModelAttention(dim=12, heads=3, query_grid=(3, 4), key_grid=(2, 5)).double()
    for parameter in module.parameters():
        parameter.normal_()
    swin, cnn = torch.randn(2, 12, 12).double(), torch.randn(2, 10, 12).double()
    query = functional.linear(swin + module.query_position.reshape(12, 12), module.query.weight, module.query.bias)
    key = functional.linear(cnn + module.key_position.reshape(10, 12), module.key.weight, module.key.bias)
    value = functional.linear(cnn, module.value.weight, module.value.bias)
    found, weights = [], []
    for channels in (slice(0, 4), slice(4, 8), slice(8, 12)):
        q = functional.layer_norm(query[..., channels], (4,), module.query_norm.weight, module.query_norm.bias)
        k = functional.layer_norm(key[..., channels], (4,), module.key_norm.weight, module.key_norm.bias)
        found.append(functional.scaled_dot_product_attention(q, k, value[..., channels]))
        weights.append(functional.softmax(torch.einsum("bqd,bkd->bqk", q, k) / 2, dim=-1))
    tokens, attention = module(swin, cnn)
    torch.testing.assert_close(attention, torch.stack(weights, dim=1))
    expected = swin + functional.linear(torch.cat(found, dim=-1), module.output.weight, module.output.bias)
    torch.testing.assert_close(tokens, expected)
