"""Integrated gradients (Sundararajan et al. 2017) over the maps of all branches jointly, through the head alone."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from app.explain.attribution import Attribution, AttributionInput, Completeness
from app.explain.cam import hirescam
from app.explain.merge import signed_sum
from app.models.feature_maps import FeatureMaps
from app.shapes import Float, Float32

# Numbers of quadrature nodes. With trained heads, the first is enough for more than half of all pictures.
NODES = (15, 31, 63)
_GAUSS_NODES = 3  # of the rule that all others extend


class Quadrature(NamedTuple):
    """A quadrature rule on [0, 1]: its nodes in rising order, and their weights."""

    positions: Float[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"]


def integrated_gradients(picture: AttributionInput, nodes: tuple[int, ...] = NODES) -> Attribution:
    """Each cell's part of the difference between the score of the picture and that of the baseline, in logits.

    The gradient is integrated along the straight path from the baseline to the picture's maps by Gauss-Patterson
    quadrature (Patterson 1968), whose nodes go through the head as one batch. A lifted head (`app.models.lifting`)
    computes the same faster. `nodes` are the numbers of nodes to try in order, of those in `NODES`, until
    `completeness.is_small`. Every rule has the nodes of the one before, which are not computed again. The cells of all
    branches add up to the difference, up to `completeness.error`.
    """
    endpoints = picture.endpoints()
    difference = endpoints.picture - endpoints.baseline
    evidence = FeatureMaps[Float32[np.ndarray, "nodes _h _w"]]()
    positions = np.zeros(0)
    for count in nodes:
        rule = gauss_patterson(count)
        further = np.setdiff1d(rule.positions, positions)
        for branch, values in _path_evidence(picture, further).items():
            evidence[branch] = np.concatenate([evidence[branch], values]) if branch in evidence else values
        positions = np.concatenate([positions, further])
        weights = rule.weights[np.searchsorted(rule.positions, positions)]
        heatmaps = FeatureMaps({branch: _weighted_sum(weights, values) for branch, values in evidence.items()})
        completeness = Completeness(difference, sum(map(signed_sum, heatmaps.values())) - difference)
        if completeness.is_small:
            break
    return Attribution(heatmaps, completeness)


def _path_evidence(
    picture: AttributionInput, positions: Float[np.ndarray, " nodes"]
) -> FeatureMaps[Float32[np.ndarray, "nodes _h _w"]]:
    """The change of each cell's map along the path times the gradient, summed over channels, at some positions."""
    if picture.score.lifted is not None:
        return picture.score.lifted.path_evidence(picture.maps, picture.baseline, positions)
    steps = {branch: activation - picture.baseline[branch] for branch, activation in picture.maps.items()}
    at = positions.astype(np.float32)[:, None, None, None]
    _, gradients = picture.score.gradients(
        {branch: picture.baseline[branch] + at * step for branch, step in steps.items()}
    )
    return FeatureMaps(
        {
            branch: hirescam(np.broadcast_to(step, gradients[branch].shape), gradients[branch])
            for branch, step in steps.items()
        }
    )


def _weighted_sum(
    weights: Float[np.ndarray, " nodes"], evidence: Float32[np.ndarray, "nodes h w"]
) -> Float32[np.ndarray, "h w"]:
    # einsum, not BLAS: the threads of BLAS would spin beside those of the engine for longer than this takes.
    heatmap: np.ndarray = np.einsum("n,nhw->hw", weights, evidence)
    return heatmap.astype(np.float32)


@cache
def gauss_patterson(count: int) -> Quadrature:
    """The rule with 7, 15, 31 or 63 nodes, which has those of the rule before and is exact to degree 3n/2.

    The further nodes are the zeros of the polynomial that is orthogonal, with the present nodes' polynomial as its
    weight, to all of lower degree. Raises ValueError for another number.
    """
    nodes = np.polynomial.legendre.leggauss(_GAUSS_NODES)[0]
    while len(nodes) < count:
        nodes = np.sort(np.concatenate([nodes, _further_nodes(nodes)]))
    if len(nodes) != count or count == _GAUSS_NODES:
        raise ValueError(f"there is no such rule with {count} nodes")
    moments = np.zeros(count)
    moments[0] = 2.0
    weights = np.linalg.solve(np.polynomial.legendre.legvander(nodes, count - 1).T, moments)
    return Quadrature((nodes + 1) / 2, weights / 2)


def _further_nodes(nodes: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """The n + 1 nodes on [-1, 1] that extend a rule of n nodes best."""
    at, weights = np.polynomial.legendre.leggauss(4 * len(nodes))  # exact for all products below
    present = np.prod(at[:, None] - nodes, axis=1)
    basis = np.polynomial.legendre.legvander(at, len(nodes) + 1)
    products = basis[:, :-1].T @ ((weights * present / np.abs(present).max())[:, None] * basis)
    lower = np.linalg.lstsq(products[:, :-1], -products[:, -1], rcond=None)[0]
    zeros: np.ndarray = np.sort(np.polynomial.legendre.legroots([*lower, 1.0]).real)
    symmetric: np.ndarray = (zeros - zeros[::-1]) / 2  # to the last digit
    return symmetric
