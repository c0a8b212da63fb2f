"""The result of an explanation request: a signed map on the model's grid, with the facts needed to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from app.explain.attention import AttentionMethod, Layer, attention_map, on_grids
from app.explain.attribution import Attribution, AttributionInput, Completeness
from app.explain.fine import FINE_NOTE, SHARES_NOTE, combine_views
from app.explain.merge import MergeRule, Share, branch_shares, finest_grid
from app.explain.methods import METHODS, merge_note, merge_rule_of, merged, warnings_of
from app.explain.shapley import BranchValues
from app.models.feature_maps import Branch
from app.predicting.request import AttentionRequest, Detail, HeatmapRequest, View
from app.shapes import Float, Float32

FOREIGN_PARTS = "foreign_parts"  # the method of maps of foreign parts
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
    ("vit", "raw"): (
        "vit_attention",
        "Attention is class-agnostic: it shows what the transformer's last layer looks at, among the cells of its map.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A signed map on the model's grid, with the facts needed to read it.

    `units` is the unit of the map's values. `target` is the class that is explained and `against` the class that it is
    contrasted with; both are None if the map is class-agnostic. `branch` is None for the cross-attention, which belongs
    to both branches, and for foreign parts. `merge` is the rule that merged the branches' heatmaps; it is None if there
    was only one. `score` and `baseline_score` are in logits, and None unless branch values were requested. `notes` are
    sentences on how to read such a map, `warnings` on what is wrong with this one. `attention` has the weights behind
    an attention map, for every head, query token and key.
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


def explain_heatmaps(pictures: Sequence[AttributionInput], request: HeatmapRequest) -> list[Explanation]:
    """One explanation for each view of the request, from a single attribution of each picture.

    The request must have been checked, and must name a target unless its method is class-agnostic. The first of
    `pictures` is the picture itself; for fine detail, its moved views follow.
    """
    attributions = [METHODS[request.method].attribute(picture) for picture in pictures]
    grid = finest_grid(pictures[0].maps.values())
    explanations = []
    for view in request.views:
        by_picture = [
            _explanation(picture, attribution, view, request)
            for picture, attribution in zip(pictures, attributions, strict=True)
        ]
        explanations.append(by_picture[0] if len(by_picture) == 1 else _refined(by_picture, grid))
    return explanations


def explain_attention(
    weights: Float[np.ndarray, "heads q k"],
    queries: tuple[int, int],
    keys: tuple[int, int],
    request: AttentionRequest,
    target: str | None,
) -> Explanation:
    """The explanation for an attention request.

    `weights` are attention weights or, for the method `gradient`, attention × gradient. `queries` and `keys` are the
    grids (rows, columns) of the query tokens and the key tokens. Raises BadParameter for a head or a query that does
    not exist.
    """
    name, note = _ATTENTION[request.layer, request.method]
    return Explanation(
        heatmap=attention_map(weights, keys, request.query, request.head),
        method=name,
        units="attention weight" if request.class_agnostic else "logit",
        branch=None if request.layer == "cross" else request.layer,
        target=target,
        against=request.against,
        notes=(note,),
        attention=on_grids(weights, queries, keys),
    )


def explain_novelty(
    heatmaps: Sequence[Float32[np.ndarray, "h w"]], grid: tuple[int, int], inside: float
) -> Explanation:
    """The explanation for a novelty request: how far each part's distance is above the limit for calibration pictures.

    The first of `heatmaps` is that of the picture itself; for fine detail, those of its moved views follow, and `grid`
    is the model's finest. `inside` is the share of calibration pictures that have no part above the limit.
    """
    note = (
        f"How foreign each part is to the model, whatever the class: 0 is what no part of {100 * inside:g} % of the "
        "calibration pictures exceeds. A foreign part need not have changed the answer."
    )
    first = Explanation(
        heatmap=heatmaps[0],
        method=FOREIGN_PARTS,
        units="standard deviations",
        branch=None,
        target=None,
        notes=(note,),
    )
    views = [replace(first, heatmap=heatmap) for heatmap in heatmaps]
    return first if len(views) == 1 else _refined(views, grid)


def with_branch_values(explanation: Explanation, values: BranchValues) -> Explanation:
    """The explanation with each branch's Shapley value, the score, and the baseline's score."""
    shares = {
        branch: replace(share, shapley_value=values.by_branch[branch]) for branch, share in explanation.shares.items()
    }
    return replace(explanation, shares=shares, score=values.score, baseline_score=values.baseline_score)


def _refined(explanations: Sequence[Explanation], grid: tuple[int, int]) -> Explanation:
    """Combine the explanations of a picture and of its moved views into one on a finer grid."""
    first = explanations[0]
    heatmap = combine_views([explanation.heatmap for explanation in explanations], grid)
    if first.units != "logit":  # only logits add up: other maps keep the size of their values, not their sum
        heatmap = heatmap * np.float32(heatmap.size / first.heatmap.size)
    notes = (*first.notes, FINE_NOTE, *([SHARES_NOTE] if first.shares else []))
    return replace(first, heatmap=heatmap, detail="fine", notes=notes)


def _explanation(
    picture: AttributionInput, attribution: Attribution, view: View, request: HeatmapRequest
) -> Explanation:
    method, rule = METHODS[request.method], None
    units, notes, maps = str(method.units), [method.note], dict(picture.maps)
    if view != "fusion":
        maps = {view: picture.maps[view]}
        heatmap = attribution.heatmaps[view]
    elif len(maps) == 1:  # with a single branch, the fusion view is that branch
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
