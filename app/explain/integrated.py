"""Integrated gradients (Sundararajan et al. 2017) over the maps of all branches jointly, through the head alone."""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float32

from app.explain.attribution import Attribution, AttributionInput, Completeness
from app.explain.cam import hirescam
from app.explain.merge import Heatmap, signed_sum
from app.models.feature_maps import FeatureMaps

# Numbers of quadrature nodes. With trained heads, the first is enough for half of all pictures.
NODES = (16, 32, 64)


def integrated_gradients(picture: AttributionInput, nodes: tuple[int, ...] = NODES) -> Attribution:
    """Each cell's part of the difference between the score of the picture and that of the baseline, in logits.

    The gradient is integrated along the straight path from the baseline to the picture's maps by Gauss-Legendre
    quadrature, whose nodes go through the head as one batch. A lifted head (`app.models.lifting`) computes the same
    faster. `nodes` are the numbers of nodes to try in order, until `completeness.is_small`. The cells of all branches
    add up to the difference, up to `completeness.error`.
    """
    for count in nodes:
        attribution = _with_nodes(picture, count)
        if attribution.completeness is not None and attribution.completeness.is_small:
            break
    return attribution


def _with_nodes(picture: AttributionInput, count: int) -> Attribution:
    heatmaps = _by_lifted_head(picture, count) or _by_whole_head(picture, count)
    endpoints = picture.endpoints()
    difference = endpoints.picture - endpoints.baseline
    return Attribution(heatmaps, Completeness(difference, sum(map(signed_sum, heatmaps.values())) - difference))


def _by_lifted_head(picture: AttributionInput, count: int) -> FeatureMaps[Heatmap] | None:
    if picture.score.lifted is None:
        return None
    return picture.score.lifted.integrated_gradients(picture.maps, picture.baseline, *_gauss_legendre(count))


def _by_whole_head(picture: AttributionInput, count: int) -> FeatureMaps[Heatmap]:
    positions, weights = _gauss_legendre(count)
    steps = {branch: activation - picture.baseline[branch] for branch, activation in picture.maps.items()}
    _, gradients = picture.score.gradients(
        {branch: picture.baseline[branch] + positions[:, None, None, None] * step for branch, step in steps.items()}
    )
    heatmaps = FeatureMaps[Heatmap]()
    for branch, step in steps.items():
        # einsum, not BLAS: the threads of BLAS would spin beside those of the engine for longer than this takes.
        mean_gradient = np.einsum("n,nchw->chw", weights, gradients[branch])
        heatmaps[branch] = hirescam(step, mean_gradient)
    return heatmaps


@cache
def _gauss_legendre(count: int) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return ((nodes + 1) / 2).astype(np.float32), (weights / 2).astype(np.float32)
