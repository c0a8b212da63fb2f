"""The laws that methods obey on real heads, each for the methods for which it holds, and what the registry says."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from app.errors import BadParameter
from app.explain.ablation import GROUPS, ablationcam
from app.explain.attribution import AttributionInput, Batch, Completeness, Maps, Score
from app.explain.integrated import gauss_patterson, integrated_gradients
from app.explain.merge import Heatmap
from app.explain.methods import METHODS, merge_rule_of, warnings_of
from app.explain.shapley import shapley_values
from app.models.cnnswin import FUSIONS, CrossAttentionHead, Fusion
from app.models.feature_maps import Branch, FeatureMaps
from app.predicting.target import HeadScore
from tests.support.bundles import BRANCHES
from tests.support.explained import MODELS, Explained, demo, model_called, tiny

CONTRAST = (-1.0, 1.0)
LINEAR = ("gradcam", "hirescam", "xgradcam", "integrated")
# Their weight for a channel is one number, so that a constant channel stays constant whatever the head makes of places.
BY_CHANNEL = ("gradcam", "gradcam++", "xgradcam", "ablationcam")
each_method = pytest.mark.parametrize("method", METHODS)
each_fusion = pytest.mark.parametrize("fusion", FUSIONS)


def maps_of(method: str, picture: AttributionInput) -> dict[Branch, Heatmap]:
    return dict(METHODS[method].attribute(picture).heatmaps)


def assert_close(found: dict[Branch, Heatmap], expected: dict[Branch, Heatmap], part: float) -> None:
    """Equal to within a part of each map's largest magnitude, which is not nothing."""
    assert found.keys() == expected.keys()
    for branch, heatmap in expected.items():
        largest = np.abs(heatmap).max()
        assert largest > 0
        np.testing.assert_allclose(found[branch], heatmap, rtol=0, atol=part * largest)


@each_fusion
@each_method
def test_every_method_explains_every_fusion(fusion: Fusion, method: str) -> None:
    case = tiny(fusion)
    heatmaps = case.heatmaps(method, CONTRAST)
    assert {branch: heatmap.shape for branch, heatmap in heatmaps.items()} == {
        branch: present.shape[1:] for branch, present in case.maps.items()
    }
    assert all(heatmap.dtype == np.float32 and np.ptp(heatmap) > 0 for heatmap in heatmaps.values())


@each_method
def test_only_class_agnostic_methods_are_the_same_for_both_classes(method: str) -> None:
    benign, malignant = (tiny().heatmaps(method, weights) for weights in ((1.0, 0.0), (0.0, 1.0)))
    same = all(np.array_equal(benign[branch], malignant[branch]) for branch in BRANCHES)
    assert same is METHODS[method].class_agnostic


@pytest.mark.parametrize("method", LINEAR)
def test_maps_are_linear_in_the_target(method: str) -> None:
    benign, malignant = (tiny().heatmaps(method, weights) for weights in ((1.0, 0.0), (0.0, 1.0)))
    expected = {branch: 2 * benign[branch] - 3 * malignant[branch] for branch in BRANCHES}
    assert_close(tiny().heatmaps(method, (2.0, -3.0)), expected, 1e-4)


@each_fusion
@pytest.mark.parametrize("method", ["hirescam", "xgradcam"])
def test_the_maps_add_up_to_the_scores_first_order_term(fusion: Fusion, method: str) -> None:
    case = tiny(fusion)
    weights, branches = torch.tensor(CONTRAST), list(case.maps)

    def score(*maps: torch.Tensor) -> torch.Tensor:
        return case.model.classify(FeatureMaps(**dict(zip(branches, maps, strict=True))))[0][0] @ weights

    maps = tuple(torch.from_numpy(case.maps[branch])[None] for branch in branches)
    _, first_order = torch.autograd.functional.jvp(score, maps, maps)
    total = sum(float(heatmap.sum(dtype=np.float64)) for heatmap in case.heatmaps(method, CONTRAST).values())
    assert total == pytest.approx(float(first_order), rel=1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("weights", [(1.0, 0.0), CONTRAST])
def test_integrated_gradients_are_complete(name: str, weights: Sequence[float]) -> None:
    case = model_called(name)
    picture = case.attribution_input(weights)
    found = integrated_gradients(picture)
    scores = [
        float(picture.score.values({branch: maps[branch][None] for branch in maps})[0])
        for maps in (case.maps, case.baseline)
    ]
    total = sum(float(heatmap.sum(dtype=np.float64)) for heatmap in found.heatmaps.values())
    assert abs(total - (scores[0] - scores[1])) / max(abs(scores[0] - scores[1]), 0.1) < 1e-3
    assert found.completeness is not None
    assert found.completeness.difference == pytest.approx(scores[0] - scores[1], abs=1e-6)
    assert found.completeness.error == pytest.approx(total - (scores[0] - scores[1]), abs=1e-6)


class ThroughTheWholeHead(HeadScore):
    """The score of a bundle without the graph of a lifted head."""

    lifted = None


@each_fusion
@pytest.mark.parametrize(("method", "part"), [("integrated", 1e-6), ("ablationcam", 1e-5)])
def test_the_lifted_head_gives_the_heatmaps_of_the_whole_head(fusion: Fusion, method: str, part: float) -> None:
    picture = tiny(fusion).attribution_input(CONTRAST)
    assert isinstance(picture.score, HeadScore) and picture.score.lifted is not None
    plain = replace(picture, score=ThroughTheWholeHead(picture.score.engine, picture.score.weights))
    assert_close(maps_of(method, picture), maps_of(method, plain), part)
    lifted_values, values = (shapley_values(each).by_branch for each in (picture, plain))
    assert lifted_values == pytest.approx(values, abs=1e-5)


def test_more_nodes_are_taken_where_the_map_would_not_account_for_the_score() -> None:
    # From maps of the other sign, so that queries and keys turn around on the way.
    opposite = {branch: -0.1 * feature_map for branch, feature_map in demo().maps.items()}
    picture = demo().attribution_input(CONTRAST, baseline=opposite)
    few, more, enough = (integrated_gradients(picture, nodes).completeness for nodes in ((7,), (7, 63), (63, 7)))
    assert few is not None and more is not None and enough is not None
    assert not few.is_small
    assert more.is_small and more.error == enough.error


def test_the_completeness_error_counts_against_a_tenth_of_a_logit_at_least() -> None:
    assert Completeness(difference=-2.0, error=0.5).relative_error == 0.25
    assert Completeness(difference=0.01, error=-0.05).relative_error == 0.5


def head_of(case: Explained) -> CrossAttentionHead:
    """A copy of a model's head, to be changed."""
    head = deepcopy(case.model.head)
    assert isinstance(head, CrossAttentionHead)
    return head.requires_grad_(False)


def with_head(head: CrossAttentionHead, maps: Maps, reference: Maps) -> AttributionInput:
    """Maps to explain on the tiny model with another head."""
    model = deepcopy(tiny().model)
    model.head = head
    return Explained(model, reference).attribution_input(CONTRAST, maps)


@each_method
def test_the_order_of_a_heads_channels_does_not_matter(method: str) -> None:
    case, head, rng = tiny(), head_of(tiny()), np.random.default_rng(0)
    order = {branch: rng.permutation(len(present)) for branch, present in case.maps.items()}
    head.cnn_projection.weight.copy_(head.cnn_projection.weight[:, order["cnn"]].clone())
    head.swin_projection.weight.copy_(head.swin_projection.weight[:, order["swin"]].clone())
    maps, reference = ({branch: of[branch][order[branch]] for branch in BRANCHES} for of in (case.maps, case.baseline))
    assert_close(maps_of(method, with_head(head, maps, reference)), case.heatmaps(method, CONTRAST), 1e-4)


@each_method
@pytest.mark.parametrize("axis", [-1, -2], ids=["left and right", "top and bottom"])
def test_mirrored_maps_give_mirrored_heatmaps_where_the_heads_tables_are_mirrored_too(method: str, axis: int) -> None:
    case, head = tiny(), head_of(tiny())
    for table in (head.attention.query_position, head.attention.key_position):
        table.copy_(table.flip(axis - 1).clone())  # channels last
    maps, reference = (
        {branch: np.ascontiguousarray(np.flip(of[branch], axis)) for branch in BRANCHES}
        for of in (case.maps, case.baseline)
    )
    mirrored = maps_of(method, with_head(head, maps, reference))
    expected = {branch: np.flip(heatmap, axis) for branch, heatmap in case.heatmaps(method, CONTRAST).items()}
    assert_close(mirrored, expected, 1e-4)


@each_method
def test_constant_maps_give_constant_heatmaps(method: str) -> None:
    case, head = tiny(), head_of(tiny())
    if method not in BY_CHANNEL:  # others can only be constant where the head knows no places
        head.attention.query_position.zero_()
        head.attention.key_position.zero_()
    maps, reference = (
        {branch: np.full_like(of[branch], 1) * of[branch].mean(axis=(1, 2), keepdims=True) for branch in BRANCHES}
        for of in (case.maps, case.baseline)
    )
    for heatmap in maps_of(method, with_head(head, maps, reference)).values():
        assert np.isfinite(heatmap).all()
        assert np.ptp(heatmap) <= 1e-5 * np.abs(heatmap).max()


@each_method
def test_maps_of_zeros_give_finite_heatmaps(method: str) -> None:
    zeros = {branch: np.zeros_like(present) for branch, present in tiny().maps.items()}
    for heatmap in maps_of(method, tiny().attribution_input(CONTRAST, zeros)).values():
        assert np.isfinite(heatmap).all()


@dataclass(frozen=True)
class OfSwinAlone:
    """A score in which the CNN's map is fixed."""

    score: Score
    cnn: np.ndarray
    lifted: None = None

    def values(self, maps: Batch) -> np.ndarray:
        return self.score.values(self._with_cnn(maps))

    def gradients(self, maps: Batch) -> tuple[np.ndarray, Batch]:
        values, gradients = self.score.gradients(self._with_cnn(maps))
        return values, {"swin": gradients["swin"]}

    def _with_cnn(self, maps: Batch) -> Batch:
        return {"cnn": np.broadcast_to(self.cnn, (len(maps["swin"]), *self.cnn.shape)), **maps}


def test_ablation_by_groups_is_near_ablation_one_by_one() -> None:
    of_both = demo().attribution_input(CONTRAST)
    maps: Maps = {"swin": of_both.maps["swin"]}
    reference: Maps = {"swin": of_both.baseline["swin"]}
    picture = AttributionInput(maps, reference, OfSwinAlone(of_both.score, of_both.maps["cnn"]))
    groups, one_by_one = (ablationcam(picture, groups).heatmaps["swin"] for groups in (GROUPS, len(maps["swin"])))
    assert np.corrcoef(groups.ravel(), one_by_one.ravel())[0, 1] > 0.99
    assert np.abs(groups - one_by_one).max() > 0


def test_values_in_logits_are_added_and_others_are_not() -> None:
    for name, method in METHODS.items():
        assert merge_rule_of(name, None) == ("sum" if method.units == "logit" else "mean")
        assert [merge_rule_of(name, how) for how in ("mean", "max", "product")] == ["mean", "max", "product"]
    assert merge_rule_of("integrated", "sum") == "sum"
    with pytest.raises(BadParameter, match="no common unit in which to be added: choose fuse mean, max, product"):
        merge_rule_of("layercam", "sum")


def test_it_is_said_where_a_method_is_not_meant_for_the_maps() -> None:
    signed, positive = tiny().maps, {branch: np.abs(present) for branch, present in tiny().maps.items()}
    assert all("cnn and swin" in warnings_of(name, signed, None)[0] for name in ("gradcam++", "layercam", "xgradcam"))
    assert not any(warnings_of(name, positive, None) for name in METHODS)
    assert not any(warnings_of(name, signed, None) for name in ("gradcam", "hirescam", "eigencam", "integrated"))


def test_it_is_said_where_a_map_does_not_account_for_the_score() -> None:
    good = Completeness(difference=2.0, error=0.0019)
    assert warnings_of("integrated", tiny().maps, good) == ()
    (sentence,) = warnings_of("integrated", tiny().maps, replace(good, error=-0.5))
    assert "adds up to 1.5 logits, but the score differs from the baseline's by 2" in sentence


@pytest.mark.parametrize("count", [7, 15, 31, 63])
def test_a_rule_is_exact_for_polynomials_and_has_the_nodes_of_the_one_before(count: int) -> None:
    rule = gauss_patterson(count)
    for degree in range(3 * count // 2 + 1):
        assert rule.positions**degree @ rule.weights == pytest.approx(1 / (degree + 1), abs=1e-9)
    assert rule.weights.min() > 0 and rule.positions.min() > 0 and rule.positions.max() < 1
    if count > 7:
        assert {*gauss_patterson(count // 2).positions} < {*rule.positions}


def test_there_is_no_rule_with_another_number_of_nodes() -> None:
    for count in (3, 16):
        with pytest.raises(ValueError, match=f"no such rule with {count} nodes"):
            gauss_patterson(count)
