"""The head's laws: attention over real cells, by the book, and a value path that no normalisation stands on."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.models.cnnswin import FUSIONS, CNNViTFusion, CrossModelAttention, Fusion, ResidualMLP
from app.models.feature_maps import Branch, FeatureMaps
from tests.support.bundles import BRANCHES

Build = Callable[..., CNNViTFusion]
Classify = Callable[[FeatureMaps[Tensor]], Tensor]


def mapped(change: Callable[[Tensor], Tensor], maps: FeatureMaps[Tensor]) -> FeatureMaps[Tensor]:
    return FeatureMaps({branch: change(feature_map) for branch, feature_map in maps.items()})


def cell_normed(feature_map: Tensor) -> Tensor:
    """The fault that the head must not have: each cell normalised over its channels."""
    return functional.layer_norm(feature_map.movedim(1, -1), feature_map.shape[1:2], eps=1e-12).movedim(-1, 1)


@torch.no_grad()
def test_every_swin_cell_spreads_its_attention_over_every_cnn_cell(finer_cnn: CNNViTFusion, images: Tensor) -> None:
    maps = finer_cnn.encode(images.double())
    assert maps.cnn is not None and maps.transformer is not None
    assert (maps.cnn.shape[2:], maps.transformer.shape[2:]) == ((6, 10), (3, 5))
    attention = finer_cnn.classify(maps)[1]
    assert attention is not None and attention.shape == (2, 4, 3 * 5, 6 * 10)
    assert attention.min() > 0
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 4, 15).double())
    between_queries = torch.cdist(attention, attention) + torch.eye(15)
    assert between_queries.min() > 1e-3


@pytest.mark.parametrize("dim", [-2, -1], ids=["rows", "columns"])
@pytest.mark.parametrize("branch", BRANCHES)
@torch.no_grad()
def test_attention_lies_row_by_row_on_both_grids(
    finer_cnn: CNNViTFusion, images: Tensor, branch: Branch, dim: int
) -> None:
    """A map that is flipped together with the positions of its cells flips the attention and keeps the logits."""
    model = copy.deepcopy(finer_cnn)
    maps = model.encode(images.double())
    logits, attention = model.classify(maps)
    position = model.head.get_parameter(f"attention.{'key' if branch == 'cnn' else 'query'}_position")
    position.copy_(position.flip(dim - 1))
    flipped = FeatureMaps({b: m.flip(dim) if b == branch else m for b, m in maps.items()})
    flipped_logits, flipped_attention = model.classify(flipped)

    def on_grid(weights: Tensor | None) -> Tensor:
        assert weights is not None
        grids: Tensor = weights.reshape(2, 4, 3, 5, 6, 10)
        return grids if branch == "cnn" else grids.permute(0, 1, 4, 5, 2, 3)

    torch.testing.assert_close(flipped_logits, logits)
    torch.testing.assert_close(on_grid(flipped_attention), on_grid(attention).flip(dim))


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
        weights.append(torch.einsum("bqd,bkd->bqk", q, k).div(4**0.5).softmax(dim=-1))
    tokens, attention = module(swin, cnn)
    torch.testing.assert_close(attention, torch.stack(weights, dim=1))
    added = functional.linear(torch.cat(found, dim=-1), module.output.weight, module.output.bias)
    torch.testing.assert_close(tokens, swin + added)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradient_times_activation_vanishes_at_no_cell(
    built: Build, images: Tensor, fusion: Fusion, classes: int
) -> None:
    """Summed over channels, as a share of the sum of its magnitudes. A layer norm on the maps brings it to zero."""
    model = copy.deepcopy(built(fusion, classes)).double()
    with torch.no_grad():
        maps = model.encode(images.double())

    def shares(classify: Classify) -> Tensor:
        leaves = mapped(lambda feature_map: feature_map.clone().requires_grad_(), maps)
        sources = [feature_map for _, feature_map in leaves.items()]
        gradients = torch.autograd.grad(classify(leaves)[:, 1].sum(), sources)
        products = [gradient * source for gradient, source in zip(gradients, sources, strict=True)]
        return torch.cat([(p.sum(dim=1).abs() / p.abs().sum(dim=1)).flatten() for p in products])

    at_cells = shares(lambda maps: model.classify(maps)[0])
    assert at_cells.min() > 1e-5 and at_cells.median() > 1e-2
    assert shares(lambda maps: model.classify(mapped(cell_normed, maps))[0]).max() < 1e-9


@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_a_cells_scale_reaches_the_logits_in_proportion(built: Build, images: Tensor, fusion: Fusion) -> None:
    """With attention held and GELU taken out, what is left of the head is its value path, and that is affine."""
    model = copy.deepcopy(built(fusion, 5)).double()
    for module in model.modules():
        if isinstance(module, ResidualMLP):
            module.activation = nn.Identity()  # type: ignore[assignment]
        if isinstance(module, CrossModelAttention):
            nn.init.zeros_(module.key_norm.weight)
    maps = model.encode(images[:1].double())

    def logits_at(scale: float, branch: Branch, classify: Classify) -> Tensor:
        """One row for each cell of the branch's map, with that cell alone scaled."""
        scales = 1 + (scale - 1) * torch.eye(15).reshape(15, 1, 3, 5)
        return classify(
            FeatureMaps({b: m * (scales if b == branch else torch.ones(15, 1, 1, 1)) for b, m in maps.items()})
        )

    for branch in maps:
        at_1, at_2, at_3 = (logits_at(s, branch, lambda maps: model.classify(maps)[0]) for s in (1, 2, 3))
        assert (at_2 - at_1).abs().amax(dim=1).min() > 1e-4
        torch.testing.assert_close(at_3 - at_2, at_2 - at_1)
        at_1, at_2 = (logits_at(s, branch, lambda maps: model.classify(mapped(cell_normed, maps))[0]) for s in (1, 2))
        assert (at_2 - at_1).abs().max() < 1e-9
