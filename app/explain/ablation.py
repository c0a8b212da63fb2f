"""Ablation-CAM (Desai & Ramaswamy 2020) through the head alone, by groups of channels."""

from __future__ import annotations

import numpy as np

from app.explain.attribution import Attribution, Subject
from app.explain.cam import weighted

GROUPS = 16


def ablationcam(subject: Subject, groups: int = GROUPS) -> Attribution:
    """Each channel weighted by what the score loses without it, then summed, without the ReLU.

    A channel is taken away by putting its mean map in its place, where the paper puts zeros, which no picture has. In
    each branch channels are taken away in `groups` of those whose loss is alike at first order; a channel's loss is
    that at first order, and an even part of what its group loses besides. As many groups as channels are the paper's
    method. The paper divides by the score, which only scales the map, and turns it round where the score is negative:
    here that is left out. All groups go through the head as one batch.
    """
    gradient = subject.gradient()
    first_order = {
        branch: np.einsum("chw,chw->c", gradient[branch], present - subject.reference[branch], dtype=np.float64)
        for branch, present in subject.maps.items()
    }
    grouped = [
        (branch, channels)
        for branch, losses in first_order.items()
        for channels in np.array_split(np.argsort(losses, kind="stable"), min(groups, len(losses)))
    ]
    batch = {branch: np.repeat(present[None], len(grouped), axis=0) for branch, present in subject.maps.items()}
    for item, (branch, channels) in enumerate(grouped):
        batch[branch][item, channels] = subject.reference[branch][channels]
    without, whole = subject.score.values(batch).astype(np.float64), subject.ends().picture
    weights = {branch: losses.copy() for branch, losses in first_order.items()}
    for (branch, channels), value in zip(grouped, without, strict=True):
        weights[branch][channels] += (whole - value - first_order[branch][channels].sum()) / len(channels)
    return Attribution({branch: weighted(present, weights[branch]) for branch, present in subject.maps.items()})
