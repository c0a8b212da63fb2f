"""The second cut of the model: a head as `core(lift(maps))`, where `lift` is affine and keeps the cells of the maps.

The first steps of every head are affine in the maps: projections, queries, keys, values, and the first layer of the
MLP. `lift` does them all at once, with one matrix for each branch. So along a straight path between two maps the lifted
values are a straight line, known from its two ends. What follows such a path needs `lift` at the ends only, and `core`,
which is not affine, at every step:

- Integrated gradients. A cell's evidence is the inner product of the change of its lifted values and their mean
  gradient, so no gradient is carried back through the affine layers.
- Ablation. Channels that are replaced by their baseline change the lifted values by their own columns of the matrix.

The arithmetic is that of the head in evaluation mode in another order, and agrees with it to the rounding of float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.models.cnnswin import as_tokens
from app.models.feature_maps import Branch, FeatureMaps
from app.shapes import Float, Int

Lifted = FeatureMaps[Float[Tensor, "b _cells _features"]]


class Line(NamedTuple):
    """Lifted values along a straight path: those at its start, and the change from there to its end."""

    start: Float[Tensor, "*values"]
    change: Float[Tensor, "*values"]

    def at(self, positions: Float[Tensor, " nodes"]) -> Float[Tensor, "nodes ..."]:
        """The values at some positions between 0, the start, and 1, the end."""
        return self.start + positions.reshape(-1, *[1] * self.change.ndim) * self.change

    @staticmethod
    def each(start: Sequence[Tensor], change: Sequence[Tensor]) -> list[Line]:
        """A line for each part of the values."""
        return [Line(*ends) for ends in zip(start, change, strict=True)]


class Affine(NamedTuple):
    """An affine function of each cell, in double precision: a matrix, and an offset for all cells or for each."""

    weight: Float[Tensor, "f c"]
    offset: Float[Tensor, "_cells f"]

    @staticmethod
    def of(layer: nn.Linear) -> Affine:
        """The function that a linear layer computes."""
        return Affine(layer.weight.double(), layer.bias.double()[None])

    def plus(self, offset: Float[Tensor, "*_cells f"]) -> Affine:
        """The function, with something added to its values."""
        return Affine(self.weight, self.offset + offset.double())

    def then(self, weight: Float[Tensor, "g f"], bias: Float[Tensor, " g"]) -> Affine:
        """The function, followed by a linear layer with these weights."""
        return Affine(weight.double() @ self.weight, self.offset @ weight.double().T + bias.double())

    def into(self, layer: nn.Linear) -> Affine:
        """The function, followed by a linear layer."""
        return self.then(layer.weight, layer.bias)


class LiftedHead(nn.Module, ABC):
    """A head in evaluation mode, cut between its affine part and the rest."""

    def __init__(self, lifts: FeatureMaps[Lift]) -> None:
        super().__init__()
        self.lifts = nn.ModuleDict({str(branch): lift for branch, lift in lifts.items()})
        self.features: FeatureMaps[int] = lifts.map(lambda lift: lift.matrix.shape[1])  # lifted values of a cell

    def lift(self, maps: FeatureMaps[Tensor]) -> Lifted:
        """The lifted values of maps `[B, C, h, w]`, cell by cell."""
        return FeatureMaps({branch: self._lift_of(branch)(feature_map) for branch, feature_map in maps.items()})

    @abstractmethod
    def core(self, lifted: Lifted) -> Float[Tensor, "b classes"]:
        """From lifted values to logits."""

    @abstractmethod
    def evidence(
        self,
        lines: FeatureMaps[Line],
        positions: Float[Tensor, " nodes"],
        targets: Float[Tensor, "targets classes"],
    ) -> FeatureMaps[Float[Tensor, "nodes targets _cells"]]:
        """At each position, each cell's change of lifted values times the gradient of the score of each target."""

    def path_evidence(
        self,
        maps: FeatureMaps[Float[Tensor, "1 _c _h _w"]],
        baseline: FeatureMaps[Float[Tensor, "1 _c _h _w"]],
        start: Lifted,
        positions: Float[Tensor, " nodes"],
        targets: Float[Tensor, "targets classes"],
    ) -> FeatureMaps[Float[Tensor, "nodes targets _h _w"]]:
        """The integrand of integrated gradients at some positions on the path from the baseline, 0, to the maps, 1.

        It is the change of a cell's map along the path times the gradient there, in logits. `start` is
        `lift(baseline)`. The score of a target is the sum of the logits times its weights.
        """
        evidence = self.evidence(self._lines(maps, baseline, start), positions, targets)
        return FeatureMaps({branch: evidence[branch].unflatten(-1, maps[branch].shape[2:]) for branch in maps})

    def ablated_logits(
        self,
        maps: FeatureMaps[Float[Tensor, "1 _c _h _w"]],
        baseline: FeatureMaps[Float[Tensor, "1 _c _h _w"]],
        start: Lifted,
        groups: FeatureMaps[Int[Tensor, "_groups _channels"]],
    ) -> Float[Tensor, "all_groups classes"]:
        """The logits of one picture, for every group of channels of one map with these replaced by their baseline.

        `start` is `lift(baseline)`. The groups of all branches follow each other. The channel C, where a map has
        channels 0 to C - 1, stands for none.
        """
        lines = self._lines(maps, baseline, start)
        lifted = lines.map(lambda line: line.start + line.change)
        batches = []
        for ablated, channels in groups.items():
            change = self._lift_of(ablated).of_channels((maps[ablated] - baseline[ablated])[0], channels)
            batch = {branch: values.expand(channels.shape[0], -1, -1) for branch, values in lifted.items()}
            batches.append(batch | {ablated: lifted[ablated] - change})
        return self.core(FeatureMaps({branch: torch.cat([batch[branch] for batch in batches]) for branch in maps}))

    def _lines(self, maps: FeatureMaps[Tensor], baseline: FeatureMaps[Tensor], start: Lifted) -> FeatureMaps[Line]:
        changes = {branch: self._lift_of(branch).of_change(maps[branch] - baseline[branch]) for branch in maps}
        return FeatureMaps({branch: Line(start[branch][0], change[0]) for branch, change in changes.items()})

    def _lift_of(self, branch: Branch) -> Lift:
        return cast(Lift, self.lifts[branch])


class Lift(nn.Module):
    """An affine function of every cell of a map: `matrix` `[C, F]` for all cells, `offset` `[cells or 1, F]`."""

    matrix: Tensor
    offset: Tensor

    def __init__(self, *parts: Affine) -> None:
        super().__init__()
        cells = max(len(part.offset) for part in parts)
        matrix = torch.cat([part.weight.T for part in parts], dim=1)
        offset = torch.cat([part.offset.expand(cells, -1) for part in parts], dim=1)
        self.register_buffer("matrix", matrix.contiguous())
        self.register_buffer("offset", offset.contiguous())

    def forward(self, feature_map: Float[Tensor, "b c h w"]) -> Float[Tensor, "b cells features"]:
        """The lifted values of a map."""
        return self.of_change(feature_map) + self.offset

    def of_change(self, change: Float[Tensor, "b c h w"]) -> Float[Tensor, "b cells features"]:
        """The change of the lifted values, for a change of a map."""
        return as_tokens(change) @ self.matrix

    def of_channels(
        self, change: Float[Tensor, "c h w"], channels: Int[Tensor, "groups channels"]
    ) -> Float[Tensor, "groups cells features"]:
        """The change of the lifted values if only some channels of the map change. The channel C stands for none."""
        by_channel = F.pad(change.flatten(1), (0, 0, 0, 1))  # none: a channel that does not change
        rows = self.matrix[channels.clamp(max=len(self.matrix) - 1)]
        return by_channel[channels].transpose(1, 2) @ rows
