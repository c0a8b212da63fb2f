"""Class activation maps: from a feature map and the gradient of the score to a heatmap.

A heatmap is signed float32 on the grid of the feature map. It has no ReLU, no resize and no normalisation: these belong
to drawing. In all functions, `activation` is the feature map and `gradient` the derivative of the score with respect to
it. `app.explain.methods` lists the units of the values. Sums are computed in double precision, so that terms which
cancel leave no rounding error of float32.
"""

from __future__ import annotations

import numpy as np

from app.shapes import Float, Float32

_CELLS = (-2, -1)
# If the cells of a channel cancel to less than this part of their magnitude, their sum is only rounding error.
_CANCELS = 1e-6


def gradcam(
    activation: Float[np.ndarray, "*batch c h w"], gradient: Float[np.ndarray, "*batch c h w"]
) -> Float32[np.ndarray, "*batch h w"]:
    """Grad-CAM (Selvaraju et al. 2017) without its ReLU: the sum of channels, each weighted by its mean gradient.

    The values are in logits. For a head that is a global mean and a linear layer, they add up to the score without its
    bias.
    """
    return weighted_sum(activation, gradient.mean(axis=_CELLS, dtype=np.float64))


def gradcam_plus_plus(
    activation: Float[np.ndarray, "*batch c h w"], gradient: Float[np.ndarray, "*batch c h w"]
) -> Float32[np.ndarray, "*batch h w"]:
    """Grad-CAM++ (Chattopadhay et al. 2018, equations 10 and 19) of the score's exponential, without its ReLU.

    A channel's weight is the sum over its cells of alpha × ReLU(gradient). The paper's alpha is g² / (2 g² + S g³),
    where S is the sum of the channel's cells; for g > 0 that is 1 / (2 + S g). The paper assumes maps without negative
    values. For other maps, S is the sum of the positive cells, because alpha could have a pole otherwise. The values
    have no unit.
    """
    positive = np.maximum(gradient, 0, dtype=np.float64)
    total = np.maximum(activation, 0).sum(axis=_CELLS, dtype=np.float64, keepdims=True)
    return weighted_sum(activation, (positive / (2 + total * positive)).sum(axis=_CELLS))


def hirescam(
    activation: Float[np.ndarray, "*batch c h w"], gradient: Float[np.ndarray, "*batch c h w"]
) -> Float32[np.ndarray, "*batch h w"]:
    """HiResCAM (Draelos & Carin 2020) without its ReLU: gradient × activation, summed over channels.

    The values are in logits. They add up to the first-order term of the score at the map.
    """
    return _product_sum(gradient, activation)


def layercam(
    activation: Float[np.ndarray, "*batch c h w"], gradient: Float[np.ndarray, "*batch c h w"]
) -> Float32[np.ndarray, "*batch h w"]:
    """LayerCAM (Jiang et al. 2021) without its ReLU: ReLU(gradient) × activation, summed over channels.

    The paper's tanh, which serves to combine several layers, is left out. The values have no unit.
    """
    return _product_sum(np.maximum(gradient, 0), activation)


def xgradcam(
    activation: Float[np.ndarray, "*batch c h w"], gradient: Float[np.ndarray, "*batch c h w"]
) -> Float32[np.ndarray, "*batch h w"]:
    """XGrad-CAM (Fu et al. 2020) without its ReLU: a channel's weight is the activation-weighted mean of its gradient.

    The values are in logits, and have the same sum as those of `hirescam`. If the cells of a channel almost cancel, its
    weight has no bound; so feature maps with negative values can give large values that cancel. A channel that cancels
    to rounding error has weight 0.
    """
    total = activation.sum(axis=_CELLS, dtype=np.float64)
    magnitude = np.abs(activation).sum(axis=_CELLS, dtype=np.float64)
    first_order = np.einsum("...hw,...hw->...", activation, gradient, dtype=np.float64)
    cancels = np.abs(total) <= _CANCELS * magnitude
    return weighted_sum(activation, np.where(cancels, 0, first_order / np.where(cancels, 1, total)))


def eigencam(activation: Float[np.ndarray, "*batch c h w"]) -> Float32[np.ndarray, "*batch h w"]:
    """Eigen-CAM (Muhammad & Yeasin 2020): the projection of the cells on the first principal component of the channels.

    It is class-agnostic and needs no gradient; the values have no unit. The means of the channels are subtracted first,
    as pytorch-grad-cam does, because otherwise the first component is little more than that mean. The sign of a
    component is arbitrary: it is chosen so that cells of large magnitude (Euclidean norm over channels) are positive.
    """
    cells = activation.astype(np.float64).reshape(*activation.shape[:-2], -1)
    centred = cells - cells.mean(axis=-1, keepdims=True)
    # The singular vectors over cells are the eigenvectors of the small Gram matrix, cells by cells.
    values, vectors = np.linalg.eigh(centred.swapaxes(-1, -2) @ centred)
    projection = vectors[..., -1] * np.sqrt(np.maximum(values[..., -1:], 0))
    norm = np.sqrt((cells**2).sum(axis=-2))
    along = (projection * (norm - norm.mean(axis=-1, keepdims=True))).sum(axis=-1, keepdims=True)
    signed = np.where(along < 0, -projection, projection)
    return np.asarray(signed.reshape(*activation.shape[:-3], *activation.shape[-2:]), dtype=np.float32)


def weighted_sum(
    activation: Float[np.ndarray, "*batch c h w"], weights: Float[np.ndarray, "*batch c"]
) -> Float32[np.ndarray, "*batch h w"]:
    """The sum of the channels, each times its weight."""
    return np.asarray(np.einsum("...chw,...c->...hw", activation, weights, dtype=np.float64), dtype=np.float32)


def _product_sum(
    left: Float[np.ndarray, "*batch c h w"], right: Float[np.ndarray, "*batch c h w"]
) -> Float32[np.ndarray, "*batch h w"]:
    return np.asarray(np.einsum("...chw,...chw->...hw", left, right, dtype=np.float64), dtype=np.float32)
