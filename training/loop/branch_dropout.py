"""Branch dropout: some training pictures are answered by one branch alone, so that each branch learns to.

A head may come to rely on the branch that learns faster, and the other then learns little (Wang et al. 2020, "What
Makes Training Multi-Modal Classification Networks Hard?"). Leaving out one of the inputs at random works against that
(Neverova et al. 2016, "ModDrop"). Here a branch is left out as explanations leave it out: by a mean map in its place.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from app.models.feature_maps import Branch, FeatureMaps, weights_of
from training.recipe.config import BranchDropout

_STREAM = int.from_bytes(b"drop")


def drop_branches(
    maps: FeatureMaps[Tensor], config: BranchDropout, *, seed: int, update: int, part: int = 0
) -> FeatureMaps[Tensor]:
    """Return the maps `[B, C, h, w]` of a batch's part, in which the map of a branch is replaced for some pictures.

    What replaces it is the mean over the pictures of the part, through which no gradient flows. Each branch is left out
    with its own probability, and never both of a picture. The choice depends on (seed, update, part) alone. A model of
    a single branch keeps its maps.
    """
    if not config or len(maps) < 2:
        return maps
    chances = np.random.default_rng([_STREAM, seed, update, part]).random(len(next(iter(maps.values()))))
    without_cnn = chances < config.cnn
    left_out = {"cnn": without_cnn, "swin": ~without_cnn & (chances < config.cnn + config.swin)}

    def replaced(branch: Branch, of_branch: Tensor) -> Tensor:
        chosen = torch.from_numpy(left_out[weights_of(branch)]).to(of_branch.device)
        return torch.where(chosen[:, None, None, None], of_branch.detach().mean(dim=0, keepdim=True), of_branch)

    return FeatureMaps({branch: replaced(branch, of_branch) for branch, of_branch in maps.items()})
