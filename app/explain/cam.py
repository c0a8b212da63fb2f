"""Class activation maps: from a feature map and the score's gradient at it to a heatmap.

A heatmap is signed float32 on the map's own grid: no ReLU, no resize, no normalisation, all of which belong to
drawing. Each method is one plain function; `app.explain.methods` says what their values mean. Sums are taken in
double precision, so that what cancels, cancels.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

_CELLS = (-2, -1)
# A channel whose cells cancel to less than this part of their magnitude has a sum of nothing but rounding.
_CANCELS = 1e-6


def gradcam(
    activation: Float[np.ndarray, "*batch c h w"], gradient: Float[np.ndarray, "*batch c h w"]
) -> Float32[np.ndarray, "*batch h w"]:
    """Grad-CAM (Selvaraju et al. 2017) without its ReLU: each channel weighted by its mean gradient, then summed.

    `gradient` is the derivative of the score at `activation`, here as in all other methods. The values are in the
    score's unit, logits: for a head of one global mean and a linear layer they add up to the score without its bias.
    """
    return weighted_sum(activation, gradient.mean(axis=_CELLS, dtype=np.float64))


def gradcam_plus_plus(
    activation: Float[np.ndarray, "*batch c h w"], gradient: Float[np.ndarray, "*batch c h w"]
) -> Float32[np.ndarray, "*batch h w"]:
    """Grad-CAM++ (Chattopadhay et al. 2018, equations 10 and 19) for the score's exponential, without its ReLU.

    A channel's weight is the sum of alpha × ReLU(gradient), where the paper's alpha, g² / (2 g² + S g³) with S the
    sum of the channel's cells, is 1 / (2 + S g) wherever g > 0. The paper's maps have no negative values. For those
    that do, S is taken over the positive cells, or alpha would have a pole.
    """
    positive = np.maximum(gradient, 0, dtype=np.float64)
    total = np.maximum(activation, 0).sum(axis=_CELLS, dtype=np.float64, keepdims=True)
    return weighted_sum(activation, (positive / (2 + total * positive)).sum(axis=_CELLS))


def hirescam(
    activation: Float[np.ndarray, "*batch c h w"], gradient: Float[np.ndarray, "*batch c h w"]
) -> Float32[np.ndarray, "*batch h w"]:
    """HiResCAM (Draelos & Carin 2020) without its ReLU: gradient × activation, summed over channels.

    Its values, in logits, add up to the first-order term of the score at the map.
    """
    return _product_sum(gradient, activation)


def layercam(
    activation: Float[np.ndarray, "*batch c h w"], gradient: Float[np.ndarray, "*batch c h w"]
) -> Float32[np.ndarray, "*batch h w"]:
    """LayerCAM (Jiang et al. 2021) without its ReLU: ReLU(gradient) × activation, summed over channels.

    Of one layer, without the paper's tanh, which is for joining several.
    """
    return _product_sum(np.maximum(gradient, 0), activation)


def xgradcam(
    activation: Float[np.ndarray, "*batch c h w"], gradient: Float[np.ndarray, "*batch c h w"]
) -> Float32[np.ndarray, "*batch h w"]:
    """XGrad-CAM (Fu et al. 2020) without its ReLU: a channel's weight is its gradient's mean, weighted by activation.

    The values, in logits, add up to what `hirescam`'s do. The weight of a channel whose cells cancel has no bound, so
    that maps with negative values can give a map of large values that cancel; a channel that cancels to rounding
    has weight 0.
    """
    total = activation.sum(axis=_CELLS, dtype=np.float64)
    magnitude = np.abs(activation).sum(axis=_CELLS, dtype=np.float64)
    first_order = np.einsum("...hw,...hw->...", activation, gradient, dtype=np.float64)
    cancels = np.abs(total) <= _CANCELS * magnitude
    return weighted_sum(activation, np.where(cancels, 0, first_order / np.where(cancels, 1, total)))


def eigencam(activation: Float[np.ndarray, "*batch c h w"]) -> Float32[np.ndarray, "*batch h w"]:
    """Eigen-CAM (Muhammad & Yeasin 2020): the cells projected on the first principal component of their channels.

    Class-agnostic: it needs no gradient. The channels' means are subtracted first, as pytorch-grad-cam does, since
    the first component is little but that mean otherwise. A component's sign is free: here cells of large magnitude
    (Euclidean norm over channels) are on the positive side.
    """
    cells = activation.astype(np.float64).reshape(*activation.shape[:-2], -1)
    centred = cells - cells.mean(axis=-1, keepdims=True)
    # The left singular vectors are those of the small matrix of cells by cells.
    values, vectors = np.linalg.eigh(centred.swapaxes(-1, -2) @ centred)
    projection = vectors[..., -1] * np.sqrt(np.maximum(values[..., -1:], 0))
    norm = np.sqrt((cells**2).sum(axis=-2))
    along = (projection * (norm - norm.mean(axis=-1, keepdims=True))).sum(axis=-1, keepdims=True)
    signed = np.where(along < 0, -projection, projection)
    return np.asarray(signed.reshape(*activation.shape[:-3], *activation.shape[-2:]), dtype=np.float32)


def weighted_sum(
    activation: Float[np.ndarray, "*batch c h w"], weights: Float[np.ndarray, "*batch c"]
) -> Float32[np.ndarray, "*batch h w"]:
    """The sum of a map's channels, each times its weight."""
    return np.asarray(np.einsum("...chw,...c->...hw", activation, weights, dtype=np.float64), dtype=np.float32)


def _product_sum(
    one: Float[np.ndarray, "*batch c h w"], other: Float[np.ndarray, "*batch c h w"]
) -> Float32[np.ndarray, "*batch h w"]:
    return np.asarray(np.einsum("...chw,...chw->...hw", one, other, dtype=np.float64), dtype=np.float32)
