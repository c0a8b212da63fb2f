"""The answer to an explanation request: a signed map on the model's grid, and how it is to be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Float32

from app.explain.attention import AttentionMethod, Layer, attention_map, on_grids
from app.explain.attribution import Attribution, AttributionInput, Completeness
from app.explain.fine import FINE_NOTE, combine_views
from app.explain.merge import MergeRule, Share, branch_shares
from app.explain.methods import METHODS, merge_note, merge_rule_of, merged, warnings_of
from app.explain.shapley import BranchValues
from app.models.feature_maps import Branch
from app.predicting.request import AttentionRequest, Detail, HeatmapRequest, View

_ATTENTION: dict[tuple[Layer, AttentionMethod], tuple[str, str]] = {
    ("cross", "raw"): (
        "attention",
        "Attention is class-agnostic: it shows where the model looks, not what speaks for a class.",
    ),
    ("cross", "gradient"): (
        "attention_times_gradient",
        "Attention × gradient: where a larger weight would speak against the class, the map is 0.",
    ),
    ("swin", "raw"): (
        "swin_attention",
        "Attention is class-agnostic: it shows what the Swin's last layer looks at, within its windows.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A signed map on the model's grid, and how it is to be read.

    `target` is the class explained and `against` the class that it is contrasted with; both are None where the map is
    class-agnostic. `branch` is None for the cross-attention, which belongs to both branches. `merge` is the rule that
    merged the branches' heatmaps, where there were several. `score` and `baseline_score` are in logits; they are known
    where branch values were asked for. `notes` say how the map is to be read, `warnings` what is amiss with this very
    map. `attention` holds what an attention map was taken from: every head's and every query token's.
    """

    heatmap: Float32[np.ndarray, "h w"]
    method: str
    units: str
    branch: View | None
    target: str | None
    against: str | None = None
    merge: MergeRule | None = None
    detail: Detail = "grid"
    shares: Mapping[Branch, Share] = field(default_factory=dict)
    score: float | None = None
    baseline_score: float | None = None
    completeness: Completeness | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    attention: Float32[np.ndarray, "heads q_h q_w k_h k_w"] | None = None


def finest_grid(maps: Iterable[np.ndarray]) -> tuple[int, int]:
    """Rows and columns of the finest of some feature maps, axis by axis."""
    rows, columns = (max(side) for side in zip(*(feature_map.shape[-2:] for feature_map in maps), strict=True))
    return rows, columns


def explain_heatmaps(pictures: Sequence[AttributionInput], request: HeatmapRequest) -> list[Explanation]:
    """One explanation for each of the request's views, from one attribution of each picture.

    The request is checked, and its target is named where the method is of a class. The first of `pictures` is the
    picture itself; for fine detail, its moved views follow.
    """
    attributions = [METHODS[request.method].attribute(picture) for picture in pictures]
    grid = finest_grid(pictures[0].maps.values())
    explanations = []
    for view in request.views:
        of_pictures = [
            _explanation(picture, attribution, view, request)
            for picture, attribution in zip(pictures, attributions, strict=True)
        ]
        explanations.append(of_pictures[0] if len(of_pictures) == 1 else _refined(of_pictures, grid))
    return explanations


def explain_attention(
    weights: Float[np.ndarray, "heads q k"],
    queries: tuple[int, int],
    keys: tuple[int, int],
    request: AttentionRequest,
    target: str | None,
) -> Explanation:
    """The explanation for an attention request, from attention weights or from attention × gradient.

    `queries` and `keys` are the grids (rows, columns) of the tokens that attend and that are attended to. Raises
    BadParameter for a head or a query that does not exist.
    """
    name, note = _ATTENTION[request.layer, request.method]
    return Explanation(
        heatmap=attention_map(weights, keys, request.query, request.head),
        method=name,
        units="attention weight" if request.class_agnostic else "logit",
        branch="swin" if request.layer == "swin" else None,
        target=target,
        against=request.against,
        notes=(note,),
        attention=on_grids(weights, queries, keys),
    )


def with_branch_values(explanation: Explanation, values: BranchValues) -> Explanation:
    """The explanation with each branch's Shapley value, and the scores that they divide."""
    shares = {
        branch: replace(share, shapley_value=values.by_branch[branch]) for branch, share in explanation.shares.items()
    }
    return replace(explanation, shares=shares, score=values.score, baseline_score=values.baseline_score)


def _refined(explanations: Sequence[Explanation], grid: tuple[int, int]) -> Explanation:
    """The explanations of a picture and of its moved views as one, on a finer grid."""
    first = explanations[0]
    heatmap = combine_views([explanation.heatmap for explanation in explanations], grid)
    if first.units != "logit":  # what does not add up keeps its values, not its sum
        heatmap = heatmap * np.float32(heatmap.size / first.heatmap.size)
    return replace(first, heatmap=heatmap, detail="fine", notes=(*first.notes, FINE_NOTE))


def _explanation(
    picture: AttributionInput, attribution: Attribution, view: View, request: HeatmapRequest
) -> Explanation:
    method, rule = METHODS[request.method], None
    units, notes, maps = str(method.units), [method.note], dict(picture.maps)
    if view != "fusion":
        maps = {view: picture.maps[view]}
        heatmap = attribution.heatmaps[view]
    elif len(maps) == 1:  # of one branch, the fusion is the branch itself
        (heatmap,) = attribution.heatmaps.values()
    else:
        rule = merge_rule_of(request.method, request.merge)
        heatmap = merged(attribution, rule)
        units = units if rule == "sum" else "unitless"
        notes.append(merge_note(rule))
    return Explanation(
        heatmap=heatmap,
        method=request.method,
        units=units,
        branch=view,
        target=request.target,
        against=request.against,
        merge=rule,
        shares=_shares(attribution, has_units=method.units == "logit"),
        completeness=attribution.completeness,
        notes=tuple(note for note in notes if note),
        warnings=warnings_of(request.method, maps, attribution.completeness),
    )


def _shares(attribution: Attribution, has_units: bool) -> dict[Branch, Share]:
    shares = branch_shares(attribution.heatmaps)
    if not has_units:
        return {branch: replace(share, share=None) for branch, share in shares.items()}
    if attribution.completeness is None:
        return shares
    return {branch: replace(share, integrated_gradients_sum=share.signed_sum) for branch, share in shares.items()}
