"""Ablation-CAM (Desai & Ramaswamy 2020) through the head alone, with channels ablated in groups."""

from __future__ import annotations

import numpy as np

from app.explain.attribution import Attribution, AttributionInput
from app.explain.cam import weighted_sum
from app.models.feature_maps import FeatureMaps

GROUPS = 16


def ablationcam(picture: AttributionInput, groups: int = GROUPS) -> Attribution:
    """Weight each channel by the loss of score when it is ablated, then sum the channels, without the paper's ReLU.

    An ablated channel is replaced by its baseline, its mean map; the paper uses zeros, which no picture has. Channels
    are ablated in groups of similar first-order effect, `groups` for each branch, and all groups go through the head as
    one batch. The loss of a channel is its own first-order effect plus an equal part of what its group loses beyond the
    sum of these effects. With as many groups as channels, this is the paper's method. The paper's division by the score
    is left out: it only scales the map, and inverts it where the score is negative. The values have no unit.
    """
    gradient = picture.gradient()
    first_order = {
        branch: np.einsum("chw,chw->c", gradient[branch], activation - picture.baseline[branch], dtype=np.float64)
        for branch, activation in picture.maps.items()
    }
    channel_groups = FeatureMaps(
        {
            branch: np.array_split(np.argsort(losses, kind="stable"), min(groups, len(losses)))
            for branch, losses in first_order.items()
        }
    )
    full_score, ablated_scores = picture.endpoints().picture, iter(picture.ablated_scores(channel_groups).tolist())
    weights = {branch: losses.copy() for branch, losses in first_order.items()}
    for branch, of_branch in channel_groups.items():
        for channels, score in zip(of_branch, ablated_scores, strict=False):  # the next branch's scores follow
            weights[branch][channels] += (full_score - score - first_order[branch][channels].sum()) / len(channels)
    heatmaps = {branch: weighted_sum(activation, weights[branch]) for branch, activation in picture.maps.items()}
    return Attribution(FeatureMaps(heatmaps))
