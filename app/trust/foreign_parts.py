"""Where a picture is foreign to a model: the distance of `app.trust.novelty`, cell by cell.

Each cell of a branch's map is compared with the leading principal components of single cells of training pictures, as
methods for finding defects do (Defard et al. 2021, "PaDiM"; Wang et al. 2022, "ViM", for whole pictures). Only those
branches take part that find pasted objects best: a classifier's deepest maps may have learned to ignore them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from app.explain.merge import finest_grid, resize_keeping_mean
from app.models.feature_maps import Branch
from app.shapes import Float, Float32
from app.trust.novelty import BranchResidual
from app.trust.quantile import bound_of


def cells_of(feature_map: Float[np.ndarray, "c h w"]) -> Float[np.ndarray, "hw c"]:
    """The cells of a map, row by row, as vectors of channels."""
    return np.asarray(feature_map.reshape(len(feature_map), -1).T)


@dataclass(frozen=True, eq=False)
class ForeignParts:
    """The distance of single cells, and how far calibration pictures reach.

    `branches` standardise the log residual of a cell. `highest` has the highest value of each calibration picture's
    map, rising.
    """

    branches: Mapping[Branch, BranchResidual]
    highest: Float[np.ndarray, " n"]

    def distances(self, maps: Mapping[Branch, Float[np.ndarray, "_c _h _w"]]) -> Float32[np.ndarray, "h w"]:
        """The mean of the branches' standardised log residuals on the finest of their grids.

        It is in standard deviations of training pictures' cells, whose mean is 0.
        """
        by_branch = {
            branch: residual.log_residual(cells_of(maps[branch])).reshape(maps[branch].shape[1:])
            for branch, residual in self.branches.items()
        }
        grid = finest_grid(by_branch.values())
        resized = np.stack([resize_keeping_mean(heatmap, grid) for heatmap in by_branch.values()])
        return np.asarray(resized.mean(axis=0, dtype=np.float32))

    def limit(self, inside: float) -> float:
        """The distance that no cell exceeds in a share of `inside` of pictures like the calibration pictures."""
        return bound_of(self.highest, inside)
