"""Integrated gradients (Sundararajan et al. 2017) over both branches' maps jointly, through the head alone."""

from __future__ import annotations

import numpy as np

from app.explain.cam import hirescam
from app.explain.fusion import signed_sum
from app.explain.subject import Attribution, Completeness, Subject

# Each a batch of its own. On a trained head, half of all pictures need no more than the first.
NODES = (16, 32, 64)


def integrated(subject: Subject, nodes: tuple[int, ...] = NODES) -> Attribution:
    """How much of the score's difference to the mean maps each cell makes, in logits, on the straight way from them.

    The integral is taken at Gauss-Legendre nodes, which go through the head as one batch together with both ends of
    the way; at more of them, up to the last number in `nodes`, as long as the map does not account for the score. All
    cells of all branches add up to the difference, but for the error given.
    """
    for count in nodes:
        attribution = _with_nodes(subject, count)
        if attribution.completeness is not None and attribution.completeness.is_small:
            break
    return attribution


def _with_nodes(subject: Subject, count: int) -> Attribution:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    along = np.array([0, *(nodes + 1) / 2, 1], dtype=np.float32)[:, None, None, None]
    steps = {branch: present - subject.reference[branch] for branch, present in subject.maps.items()}
    values, gradients = subject.score.gradients(
        {branch: subject.reference[branch] + along * step for branch, step in steps.items()}
    )
    heatmaps = {}
    for branch, step in steps.items():
        mean_gradient = np.tensordot(weights.astype(np.float32) / 2, gradients[branch][1:-1], axes=1)
        heatmaps[branch] = hirescam(step, mean_gradient)
    difference = float(values[-1]) - float(values[0])
    return Attribution(heatmaps, Completeness(difference, sum(map(signed_sum, heatmaps.values())) - difference))
