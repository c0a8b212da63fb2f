"""Integrated gradients (Sundararajan et al. 2017) over both branches' maps jointly, through the head alone."""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float32

from app.explain.attribution import Attribution, Completeness, Subject
from app.explain.cam import hirescam
from app.explain.merge import signed_sum

# Each a batch of its own. On a trained head, half of all pictures need no more than the first.
NODES = (16, 32, 64)


def integrated(subject: Subject, nodes: tuple[int, ...] = NODES) -> Attribution:
    """How much of the score's difference to the mean maps each cell makes, in logits, on the straight way from them.

    The integral is taken at Gauss-Legendre nodes, which go through the head as one batch; at more of them, up to the
    last number in `nodes`, as long as the map does not account for the score. All cells of all branches add up to the
    difference, but for the error given.
    """
    for count in nodes:
        attribution = _with_nodes(subject, count)
        if attribution.completeness is not None and attribution.completeness.is_small:
            break
    return attribution


def _with_nodes(subject: Subject, count: int) -> Attribution:
    along, weights = _gauss_legendre(count)
    steps = {branch: present - subject.reference[branch] for branch, present in subject.maps.items()}
    _, gradients = subject.score.gradients(
        {branch: subject.reference[branch] + along[:, None, None, None] * step for branch, step in steps.items()}
    )
    heatmaps = {}
    for branch, step in steps.items():
        # No BLAS, whose threads would go on spinning beside the engine's for longer than this takes.
        mean_gradient = np.einsum("n,nchw->chw", weights, gradients[branch])
        heatmaps[branch] = hirescam(step, mean_gradient)
    ends = subject.ends()
    difference = ends.picture - ends.reference
    return Attribution(heatmaps, Completeness(difference, sum(map(signed_sum, heatmaps.values())) - difference))


@cache
def _gauss_legendre(count: int) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Nodes and weights from 0 to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return ((nodes + 1) / 2).astype(np.float32), (weights / 2).astype(np.float32)
