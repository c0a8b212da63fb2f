"""Imputation: removed pixels are filled in from the kept ones, so that the removed shape itself is not visible.

This is the noisy linear imputation of ROAD (Rong et al., "A Consistent and Efficient Evaluation Strategy for
Attribution Methods", 2022). Each removed pixel is the weighted mean of its eight neighbours, which may be removed
themselves, plus noise. The linear equations are solved in numpy by conjugate gradients with a multigrid cycle as the
preconditioner, some thirty times as fast as by a sparse factorization. The cycle is not symmetric, hence the flexible
form (Notay, "Flexible Conjugate Gradients", 2000).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.shapes import Bool, Float32, UInt8

NOISE = 0.01  # standard deviation, as a share of the range from black to white
_CHANGE = 0.1  # grey levels: the solution is good enough when a step changes no pixel by more
_SWEEPS, _DAMPING = 2, 0.8

Planes = Float32[np.ndarray, "c h w"]
Plane = Float32[np.ndarray, "h w"]


def impute(
    image: UInt8[np.ndarray, "h w 3"], removed: Bool[np.ndarray, "h w"], rng: np.random.Generator, noise: float = NOISE
) -> UInt8[np.ndarray, "h w 3"]:
    """Fill in the removed pixels of a picture; kept pixels do not change.

    A removed pixel is the weighted mean of its neighbours within the picture plus normal noise. Direct neighbours have
    the weight 1/6, diagonal ones 1/12. The noise has a standard deviation of `noise` × 255 grey levels and is drawn for
    each channel. Raises ValueError if every pixel is removed.
    """
    if removed.all():
        raise ValueError("every pixel is removed: there is nothing to fill them in from")
    planes = np.ascontiguousarray(np.moveaxis(image, -1, 0), dtype=np.float32)
    filled = _solved(_initial_guess(planes, ~removed), _grids(removed))
    noisy = filled + 255 * noise * rng.standard_normal(filled.shape, np.float32)
    return np.moveaxis(np.where(removed, np.clip(np.rint(noisy), 0, 255), planes), 0, -1).astype(np.uint8)


@dataclass(frozen=True)
class _Grid:
    """The equations on one grid.

    `unknown` is 1 on unknown pixels and 0 elsewhere, `weight` is 12 times the sum of each pixel's weights, and `step`
    the step size of a Jacobi sweep.
    """

    unknown: Plane
    weight: Plane
    step: Plane

    def residual(self, values: Planes, right_side: Planes) -> Planes:
        """Return the residual of the equations for `values`, which is 0 on kept pixels."""
        return np.asarray(self.unknown * (right_side - self.weight * values + _weighted_neighbours(values)))


def _grids(removed: Bool[np.ndarray, "h w"]) -> list[_Grid]:
    """Build the grids, from the finest to the coarsest that has unknown pixels.

    A coarse pixel is unknown if all the pixels that it covers are, so that corrections do not reach kept pixels.
    """
    grids: list[_Grid] = []
    unknown = removed
    while not grids or unknown.any():
        weight = _weighted_neighbours(np.ones(unknown.shape, np.float32))
        grids.append(_Grid(unknown.astype(np.float32), weight, np.float32(_DAMPING) / weight))
        if min(unknown.shape) == 1:
            break
        unknown = _restrict((~unknown).astype(np.float32)) == 0
    return grids


def _solved(values: Planes, grids: list[_Grid]) -> Planes:
    """Solve the equations on the finest grid by flexible conjugate gradients, from a first guess."""
    grid, nothing = grids[0], np.zeros_like(values)
    residual, direction, image = grid.residual(values, nothing), nothing, nothing
    energy, change = np.ones((len(values), 1, 1), np.float32), np.inf
    while change > _CHANGE:
        correction = _v_cycle(residual, grids)
        direction = correction - _dot(correction, image) / energy * direction
        image = -grid.residual(direction, nothing)
        energy = np.maximum(_dot(direction, image), np.finfo(np.float32).tiny)
        length = _dot(direction, residual) / energy
        step = length * direction
        values, residual, change = values + step, residual - length * image, np.abs(step).max()
    return values


def _dot(one: Planes, other: Planes) -> Float32[np.ndarray, "c 1 1"]:
    """Return the inner product of each channel."""
    return np.asarray(np.sum(one * other, (1, 2), keepdims=True))


def _v_cycle(right_side: Planes, grids: list[_Grid]) -> Planes:
    """Run one V-cycle from 0: damped Jacobi sweeps, a correction from the coarser grids, and sweeps again."""
    grid, *coarser = grids
    values = _smooth(np.zeros_like(right_side), right_side, grid)
    if coarser:
        residual = _restrict(grid.residual(values, right_side)) * coarser[0].unknown
        correction = _v_cycle(residual, coarser)
        values = values + grid.unknown * _prolong(correction, grid.unknown.shape)
    return _smooth(values, right_side, grid)


def _smooth(values: Planes, right_side: Planes, grid: _Grid) -> Planes:
    for _ in range(_SWEEPS):
        values = values + grid.step * grid.residual(values, right_side)
    return values


def _initial_guess(planes: Planes, kept: Bool[np.ndarray, "h w"]) -> Planes:
    """Fill unknown pixels with the mean of kept pixels on the finest coarser grid that has kept pixels there."""
    if kept.all():
        return planes
    counts = _restrict(kept.astype(np.float32))
    means = _restrict(planes * kept) / np.maximum(counts, 1)
    return np.where(kept, planes, _prolong(_initial_guess(means, counts > 0), kept.shape))


def _weighted_neighbours(values: Float32[np.ndarray, "*c h w"]) -> Float32[np.ndarray, "*c h w"]:
    """Return 12 times the weighted sum of the eight neighbours.

    The weights are the outer product of (1 2 1) with itself, without its centre. As whole numbers they are exact in
    float32: rounded ones would add up to a little more or less, and far from kept pixels that adds up to grey levels.
    """
    down = values + values
    down[..., 1:, :] += values[..., :-1, :]
    down[..., :-1, :] += values[..., 1:, :]
    both = down + down
    both[..., 1:] += down[..., :-1]
    both[..., :-1] += down[..., 1:]
    both -= 4 * values
    return np.asarray(both)


def _restrict(values: Float32[np.ndarray, "*c h w"]) -> Float32[np.ndarray, "*c half_h half_w"]:
    """Sum every two by two pixels (restriction). An odd side is padded with zeros."""
    height, width = values.shape[-2:]
    if height % 2 or width % 2:
        values = np.pad(values, [(0, 0)] * (values.ndim - 2) + [(0, height % 2), (0, width % 2)])
    rows = values[..., ::2, :] + values[..., 1::2, :]
    return np.asarray(rows[..., ::2] + rows[..., 1::2])


def _prolong(values: Planes, size: tuple[int, ...]) -> Float32[np.ndarray, "c fine_h fine_w"]:
    """Interpolate bilinearly to a grid of twice the resolution (prolongation), cropped to `size`."""
    across = _prolong_lines(values, size[1])
    return np.swapaxes(_prolong_lines(np.swapaxes(across, 1, 2), size[0]), 1, 2)


def _prolong_lines(values: Planes, length: int) -> Float32[np.ndarray, "c h fine_w"]:
    padded = np.concatenate([values[..., :1], values, values[..., -1:]], axis=-1)
    finer = np.empty((*values.shape[:-1], 2 * values.shape[-1]), np.float32)
    finer[..., ::2] = 0.75 * values + 0.25 * padded[..., :-2]
    finer[..., 1::2] = 0.75 * values + 0.25 * padded[..., 2:]
    return finer[..., :length]
