"""Ablation-CAM (Desai & Ramaswamy 2020) through the head alone, by groups of channels."""

from __future__ import annotations

import numpy as np

from app.explain.cam import weighted
from app.explain.subject import Attribution, Subject

GROUPS = 32


def ablationcam(subject: Subject, groups: int = GROUPS) -> Attribution:
    """Each channel weighted by what the score loses without it, then summed, without the ReLU.

    A channel is taken away by putting its mean map in its place, where the paper puts zeros, which no picture has.
    In each branch channels go in `groups` at a time, those together whose loss is alike at first order, and share a
    group's loss evenly; as many groups as channels are the paper's method. The paper divides by the score, which only
    scales the map, and turns it round where the score is negative: here that is left out. All groups are one batch.
    """
    gradient = subject.gradient()
    grouped = []
    for branch, present in subject.maps.items():
        loss = np.einsum("chw,chw->c", gradient[branch], present - subject.reference[branch])
        parts = np.array_split(np.argsort(loss, kind="stable"), min(groups, len(loss)))
        grouped += [(branch, channels) for channels in parts]
    # The first item is the whole picture, then one for each group without that group.
    batch = {branch: np.repeat(present[None], 1 + len(grouped), axis=0) for branch, present in subject.maps.items()}
    for item, (branch, channels) in enumerate(grouped, start=1):
        batch[branch][item, channels] = subject.reference[branch][channels]
    values = subject.score.values(batch).astype(np.float64)
    weights = {branch: np.zeros(len(present)) for branch, present in subject.maps.items()}
    for (branch, channels), value in zip(grouped, values[1:], strict=True):
        weights[branch][channels] = (values[0] - value) / len(channels)
    return Attribution({branch: weighted(present, weights[branch]) for branch, present in subject.maps.items()})
