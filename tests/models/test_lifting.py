"""A lifted head is the head: the same logits, the same integrated gradients, the same logits without some channels.

Maps are 3 × 5 cells, and 6 × 10 for a finer CNN, so that rows cannot pass for columns, nor queries for keys. Both sides
are computed in double precision, where rounding hides nothing: how a processor adds up float32 is no part of the law.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from app.models.cnnswin import FUSIONS, CNNViTFusion, Fusion
from app.models.feature_maps import Branch, FeatureMaps
from app.models.lifted_heads import lifted_head
from app.models.lifting import LiftedHead
from tests.support.bundles import BRANCHES

Build = Callable[..., CNNViTFusion]
PART = 1e-12  # of the largest value
EACH = pytest.mark.parametrize(("fusion", "classes"), [(fusion, classes) for fusion in FUSIONS for classes in (2, 7)])
POSITIONS = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)


@pytest.fixture(scope="module")
def built(built: Build) -> Build:
    """`built(fusion, classes)`: as everywhere, in double precision."""
    return lambda *arguments: deepcopy(built(*arguments)).double()


def lifted(model: CNNViTFusion) -> LiftedHead:
    head = lifted_head(model.head)
    assert head is not None
    return head


def evidence(
    model: CNNViTFusion, maps: FeatureMaps[Tensor], baseline: FeatureMaps[Tensor], targets: Tensor
) -> FeatureMaps[Tensor]:
    head = lifted(model)
    return head.path_evidence(maps, baseline, head.lift(baseline), POSITIONS, targets)


def random_maps(model: CNNViTFusion, seed: int, items: int = 1) -> FeatureMaps[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return FeatureMaps(
        {branch: torch.randn(items, *shape, generator=generator).double() for branch, shape in model.map_shapes.items()}
    )


def targets_of(classes: int) -> Tensor:
    """The last class, a contrast of two, and a mixture of all."""
    one, contrast = torch.eye(classes)[-1], torch.eye(classes)[0] - torch.eye(classes)[1]
    return torch.stack([one, contrast, torch.linspace(-1, 2, classes)]).double()


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape and found.dtype == expected.dtype == torch.float64
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=PART * float(expected.abs().max()))


def along_the_path(
    model: CNNViTFusion, maps: FeatureMaps[Tensor], baseline: FeatureMaps[Tensor], target: Tensor
) -> FeatureMaps[Tensor]:
    """The same by autograd through the whole head: `[nodes, h, w]`."""
    at = POSITIONS[:, None, None, None]
    steps = FeatureMaps({b: maps[b] - baseline[b] for b in maps})
    leaves = FeatureMaps({b: (baseline[b] + at * step).requires_grad_() for b, step in steps.items()})
    logits, _ = model.classify(leaves)
    gradients = torch.autograd.grad((logits * target).sum(), list(leaves.values()))
    return FeatureMaps({b: (gradient * steps[b]).sum(dim=1) for b, gradient in zip(maps, gradients, strict=True)})


@EACH
@torch.no_grad()
def test_core_of_lift_is_the_head(built: Build, fusion: Fusion, classes: int) -> None:
    model = built(fusion, classes)
    maps = random_maps(model, seed=1, items=3)
    head = lifted(model)
    assert_close(head.core(head.lift(maps)), model.classify(maps)[0])


@EACH
def test_evidence_along_the_path_is_that_through_the_whole_head(built: Build, fusion: Fusion, classes: int) -> None:
    model = built(fusion, classes)
    maps, baseline, targets = random_maps(model, seed=2), random_maps(model, seed=3), targets_of(classes)
    with torch.no_grad():
        together = evidence(model, maps, baseline, targets)
    for index, target in enumerate(targets):
        heatmaps = [of_branch[:, index] for of_branch in together.values()]
        expected = along_the_path(model, maps, baseline, target)
        # Of both branches' values the largest, since they are added up.
        assert_close(
            torch.cat([each.flatten() for each in heatmaps]), torch.cat([*map(torch.flatten, expected.values())])
        )


@torch.no_grad()
def test_queries_are_not_taken_for_keys(finer_cnn: CNNViTFusion) -> None:
    model, targets = finer_cnn, torch.eye(5).double()
    maps, baseline = random_maps(model, seed=2), random_maps(model, seed=3)
    found = evidence(model, maps, baseline, targets[:1])
    with torch.enable_grad():
        expected = along_the_path(model, maps, baseline, targets[0])
    assert {branch: heatmap.shape for branch, heatmap in found.items()} == {"cnn": (3, 1, 6, 10), "swin": (3, 1, 3, 5)}
    for branch in BRANCHES:
        assert_close(found[branch][:, 0], expected[branch])


@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_where_nothing_differs_from_the_baseline_nothing_is_evidence(built: Build, fusion: Fusion) -> None:
    model = built(fusion)
    for maps in (random_maps(model, seed=4), random_maps(model, seed=4).map(torch.zeros_like)):
        for heatmap in evidence(model, maps, maps, torch.eye(2).double()).values():
            assert torch.equal(heatmap, torch.zeros_like(heatmap))


@EACH
@torch.no_grad()
def test_ablated_channels_are_replaced_by_the_baselines(built: Build, fusion: Fusion, classes: int) -> None:
    model = built(fusion, classes)
    maps, baseline = random_maps(model, seed=5), random_maps(model, seed=6)
    # The first group has fewer channels than the others, the last one none.
    groups = maps.map(lambda each: torch.tensor([[0, each.shape[1]], [3, 7], [7, 11], [each.shape[1]] * 2]))
    expected = []
    for branch, of_branch in groups.items():
        for group in of_branch.tolist():
            replaced = maps.map(torch.clone)
            chosen = [channel for channel in group if channel < maps[branch].shape[1]]
            replaced[branch][0, chosen] = baseline[branch][0, chosen]
            expected.append(model.classify(replaced)[0][0])
    head = lifted(model)
    assert_close(head.ablated_logits(maps, baseline, head.lift(baseline), groups), torch.stack(expected))


@pytest.mark.parametrize("branch", BRANCHES)
@torch.no_grad()
def test_a_lift_is_affine_and_keeps_cells(built: Build, branch: Branch) -> None:
    model = built()
    lift = lifted(model).lifts[branch]
    one, two = (random_maps(model, seed)[branch] for seed in (7, 8))
    assert_close(lift(0.3 * one + 0.7 * two), 0.3 * lift(one) + 0.7 * lift(two))
    other = one.clone()
    other[..., 1, 2] = two[..., 1, 2]
    changed = (lift(other) != lift(one)).any(dim=-1)[0]
    assert changed.nonzero().flatten().tolist() == [1 * one.shape[-1] + 2]


class Doubled(nn.Linear):
    """A layer that is not what its weights say."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_head_of_another_kind_has_no_lifted_form(built: Build) -> None:
    assert lifted_head(nn.Linear(3, 2)) is None
    head = deepcopy(built().head)
    head.classifier = Doubled(32, 2)
    assert lifted_head(head) is None


def test_a_lifted_head_shares_nothing_with_the_head(built: Build) -> None:
    model = built()
    own = {tensor.data_ptr() for tensor in model.head.state_dict().values()}
    assert not own & {tensor.data_ptr() for tensor in lifted(model).state_dict().values()}
