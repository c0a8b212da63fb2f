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

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from app.models.cnnswin import (
    BranchesHead,
    BranchHead,
    ConcatHead,
    CrossAttentionHead,
    CrossModelAttention,
    ResidualMLP,
    as_tokens,
)
from app.models.feature_maps import Branch, FeatureMaps

Lifted = FeatureMaps[Float[Tensor, "b _cells _features"]]


class Path(NamedTuple):
    """The nodes of a quadrature on [0, 1]: where the gradient is taken, and how much each counts."""

    positions: Float[Tensor, " nodes"]
    weights: Float[Tensor, " nodes"]


class Line(NamedTuple):
    """Lifted values along a straight path: those at its start, and the change from there to its end."""

    start: Float[Tensor, "cells features"]
    change: Float[Tensor, "cells features"]

    def at(self, positions: Float[Tensor, " nodes"]) -> Float[Tensor, "nodes cells features"]:
        """The values at some positions between 0, the start, and 1, the end."""
        return self.start + positions[:, None, None] * self.change


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
        self.lifts = nn.ModuleDict(lifts)

    def lift(self, maps: FeatureMaps[Tensor]) -> Lifted:
        """The lifted values of maps `[B, C, h, w]`, cell by cell."""
        return FeatureMaps({branch: self._lift_of(branch)(feature_map) for branch, feature_map in maps.items()})

    @abstractmethod
    def core(self, lifted: Lifted) -> Float[Tensor, "b classes"]:
        """From lifted values to logits."""

    @abstractmethod
    def evidence(
        self, lines: FeatureMaps[Line], path: Path, targets: Float[Tensor, "targets classes"]
    ) -> FeatureMaps[Float[Tensor, "targets _cells"]]:
        """Each cell's change of lifted values times the mean gradient of the score along the path, for each target."""

    def integrated_gradients(
        self,
        maps: FeatureMaps[Float[Tensor, "1 _c _h _w"]],
        baseline: FeatureMaps[Float[Tensor, "1 _c _h _w"]],
        path: Path,
        targets: Float[Tensor, "targets classes"],
    ) -> FeatureMaps[Float[Tensor, "targets _h _w"]]:
        """The integrated gradients of one picture's maps against the baseline, in logits.

        The score of a target is the sum of the logits times its weights. A heatmap has the cells of its branch's map.
        """
        lines = {branch: self._lift_of(branch).line(baseline[branch], maps[branch]) for branch in maps}
        evidence = self.evidence(FeatureMaps(lines), path, targets)
        return FeatureMaps({branch: evidence[branch].reshape(-1, *maps[branch].shape[2:]) for branch in maps})

    def ablated_logits(
        self,
        maps: FeatureMaps[Float[Tensor, "1 _c _h _w"]],
        baseline: FeatureMaps[Float[Tensor, "1 _c _h _w"]],
        channels: FeatureMaps[Int[Tensor, "items _channels"]],
    ) -> Float[Tensor, "items classes"]:
        """The logits of one picture, for every item with some channels of each map replaced by their baseline.

        The channel C, where a map has channels 0 to C - 1, stands for none.
        """
        lifted = self.lift(maps)
        for branch, replaced in channels.items():
            change = (baseline[branch] - maps[branch])[0]
            lifted[branch] = lifted[branch] + self._lift_of(branch).of_channels(change, replaced)
        return self.core(lifted)

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
        self.register_buffer("matrix", matrix.float().contiguous())
        self.register_buffer("offset", offset.float().contiguous())

    def forward(self, feature_map: Float[Tensor, "b c h w"]) -> Float[Tensor, "b cells features"]:
        """The lifted values of a map."""
        return as_tokens(feature_map) @ self.matrix + self.offset

    def line(self, start: Float[Tensor, "1 c h w"], end: Float[Tensor, "1 c h w"]) -> Line:
        """The lifted values on the straight path between two maps."""
        start_values, change = as_tokens(torch.cat([start, end - start])) @ self.matrix
        return Line(start_values + self.offset, change)

    def of_channels(
        self, change: Float[Tensor, "c h w"], channels: Int[Tensor, "items channels"]
    ) -> Float[Tensor, "items cells features"]:
        """The change of the lifted values if only some channels of the map change. The channel C stands for none."""
        by_channel, rows = (F.pad(values, (0, 0, 0, 1)) for values in (change.flatten(1), self.matrix))
        return by_channel[channels].transpose(1, 2) @ rows[channels]


class LiftedAttention(LiftedHead):
    """`CrossAttentionHead`.

    Lifted values are the key and the value of each CNN token, and of each Swin token the query, its part of the MLP's
    hidden units, and its part of the logits. Behind the attention, what follows until the activation is one matrix.
    """

    attended_to_hidden: Tensor
    attended_to_logits: Tensor
    hidden_to_logits: Tensor

    def __init__(self, head: CrossAttentionHead) -> None:
        attention, mlp, classifier = head.attention, head.mlp, head.classifier
        swin, cnn = Affine.of(head.swin_projection), Affine.of(head.cnn_projection)
        after = swin.plus(attention.output.bias)
        query = swin.plus(attention.query_position.flatten(0, 1)).into(attention.query)
        key = cnn.plus(attention.key_position.flatten(0, 1)).into(attention.key)
        direct = after.plus(mlp.down.bias).into(classifier)
        super().__init__(
            FeatureMaps(cnn=Lift(key, cnn.into(attention.value)), swin=Lift(query, after.into(mlp.up), direct))
        )
        self.heads, self.scale = attention.heads, attention.scale
        self.query_norm, self.key_norm = copy.deepcopy(attention.query_norm), copy.deepcopy(attention.key_norm)
        for name, product in (
            ("attended_to_hidden", (mlp.up, attention.output)),
            ("attended_to_logits", (classifier, attention.output)),
            ("hidden_to_logits", (classifier, mlp.down)),
        ):
            self.register_buffer(name, _transposed_product(*product))

    def core(self, lifted: Lifted) -> Float[Tensor, "b classes"]:
        """See `LiftedHead.core`."""
        query, own_hidden, own_logits = self._swin_parts(lifted["swin"])
        key, value = self._cnn_parts(lifted["cnn"])
        scores = self.query_norm(query) @ self.key_norm(key).transpose(-2, -1) * self.scale
        attended = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
        hidden = F.gelu(own_hidden + attended @ self.attended_to_hidden)
        by_token = own_logits + attended @ self.attended_to_logits + hidden @ self.hidden_to_logits
        return by_token.mean(dim=1)

    def evidence(
        self, lines: FeatureMaps[Line], path: Path, targets: Float[Tensor, "targets classes"]
    ) -> FeatureMaps[Float[Tensor, "targets _cells"]]:
        """See `LiftedHead.evidence`. The gradient is written out, so that nothing is computed that does not count."""
        query, own_hidden, _ = self._swin_parts(lines["swin"].at(path.positions))
        key, value = self._cnn_parts(lines["cnn"].at(path.positions))
        query_change, hidden_change, logits_change = self._swin_parts(lines["swin"].change[None])
        key_change, value_change = self._cnn_parts(lines["cnn"].change[None])
        query, query_slope = _normalised(self.query_norm, query, query_change)
        key, key_slope = _normalised(self.key_norm, key, key_change)
        weights = (query @ key.transpose(-2, -1) * self.scale).softmax(dim=-1)
        attended = (weights @ value).transpose(1, 2).flatten(2)
        slope = _gelu_slope(own_hidden + attended @ self.attended_to_hidden)

        # Gradients with respect to what stands before the mean over tokens, by node and target.
        of_hidden = targets @ self.hidden_to_logits.T / slope.shape[1]
        of_node = path.weights[:, None, None] * slope
        of_attended = (of_node[:, None] * of_hidden[:, None]) @ self.attended_to_hidden.T
        direct = targets @ self.attended_to_logits.T / slope.shape[1]
        of_attended = of_attended + path.weights[:, None, None, None] * direct[:, None]
        of_attended = of_attended.unflatten(-1, (self.heads, -1)).transpose(2, 3)  # [nodes, targets, heads, q, e]

        of_weights = of_attended @ value.transpose(-2, -1)[:, None]
        weights = weights[:, None]
        weighted = weights * of_weights
        of_scores = (weighted - weights * weighted.sum(dim=-1, keepdim=True)) * self.scale
        by_query = of_scores * (query_slope @ key.transpose(-2, -1))[:, None]
        by_key = of_scores * (query @ key_slope.transpose(-2, -1))[:, None]
        by_value = weights * (of_attended @ value_change.transpose(-2, -1))
        own = (hidden_change[0] * of_node.sum(dim=0)) @ of_hidden.T + logits_change[0] @ targets.T / slope.shape[1]
        return FeatureMaps({"cnn": (by_key + by_value).sum(dim=(0, 2, 3)), "swin": by_query.sum(dim=(0, 2, 4)) + own.T})

    def _swin_parts(
        self, values: Float[Tensor, "b q _features"]
    ) -> tuple[Float[Tensor, "b heads q e"], Float[Tensor, "b q hidden"], Float[Tensor, "b q classes"]]:
        hidden, attended = self.attended_to_hidden.shape[1], self.attended_to_hidden.shape[0]
        query, own_hidden, own_logits = values.split([attended, hidden, values.shape[-1] - attended - hidden], dim=-1)
        return self._by_head(query), own_hidden, own_logits

    def _cnn_parts(
        self, values: Float[Tensor, "b k _features"]
    ) -> tuple[Float[Tensor, "b heads k e"], Float[Tensor, "b heads k e"]]:
        key, value = values.chunk(2, dim=-1)
        return self._by_head(key), self._by_head(value)

    def _by_head(self, values: Float[Tensor, "b n _d"]) -> Float[Tensor, "b heads n e"]:
        return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class PooledMLP(NamedTuple):
    """What follows the mean over cells of some branches' projected maps, concatenated: an MLP and a classifier."""

    projections: FeatureMaps[nn.Linear]
    mlp: ResidualMLP
    classifier: nn.Linear


class LiftedMLPs(LiftedHead):
    """The mean of the logits of one or more `PooledMLP`, each with branches of its own.

    Lifted values are a cell's part of the MLP's hidden units and of the logits.
    """

    hidden_to_logits: Tensor

    def __init__(self, *mlps: PooledMLP) -> None:
        super().__init__(FeatureMaps({branch: lift for each in mlps for branch, lift in _pooled_lifts(each).items()}))
        self.branches = [tuple(each.projections) for each in mlps]
        products = [_transposed_product(each.classifier, each.mlp.down) for each in mlps]
        self.register_buffer("hidden_to_logits", torch.stack(products))

    def core(self, lifted: Lifted) -> Float[Tensor, "b classes"]:
        """See `LiftedHead.core`."""
        pooled = lifted.map(lambda values: values.mean(dim=1))
        logits = []
        for branches, hidden_to_logits in zip(self.branches, self.hidden_to_logits, strict=True):
            hidden, own_logits = self._parts(_sum([pooled[branch] for branch in branches]))
            logits.append(own_logits + F.gelu(hidden) @ hidden_to_logits)
        return _sum(logits) / len(logits)

    def evidence(
        self, lines: FeatureMaps[Line], path: Path, targets: Float[Tensor, "targets classes"]
    ) -> FeatureMaps[Float[Tensor, "targets _cells"]]:
        """See `LiftedHead.evidence`. All cells of a map have the same gradient."""
        evidence = FeatureMaps[Tensor]()
        for branches, hidden_to_logits in zip(self.branches, self.hidden_to_logits, strict=True):
            pooled = _sum([lines[branch].at(path.positions).mean(dim=1) for branch in branches])
            slope = path.weights @ _gelu_slope(self._parts(pooled)[0])
            gradient = torch.cat([slope * (targets @ hidden_to_logits.T), targets], dim=-1) / len(self.branches)
            for branch in branches:
                evidence[branch] = gradient @ lines[branch].change.T / len(lines[branch].change)
        return evidence

    def _parts(self, values: Float[Tensor, "*b _features"]) -> tuple[Float[Tensor, "*b hidden"], Float[Tensor, "*b k"]]:
        hidden = self.hidden_to_logits.shape[1]
        return values[..., :hidden], values[..., hidden:]


_LIFTED_LAYERS = (
    *(BranchesHead, BranchHead, ConcatHead, CrossAttentionHead, CrossModelAttention, ResidualMLP),
    *(nn.Dropout, nn.GELU, nn.LayerNorm, nn.Linear, nn.ModuleDict),
)


def lifted_head(head: nn.Module) -> LiftedHead | None:
    """The lifted form of a head in evaluation mode, with tensors of its own.

    None for a head of another kind, or with a layer of another kind: such a head is used as it is.
    """
    if any(type(module) not in _LIFTED_LAYERS for module in head.modules()):
        return None
    match head:
        case CrossAttentionHead():
            return LiftedAttention(head)
        case ConcatHead():
            projections = FeatureMaps[nn.Linear](cnn=head.cnn_projection, swin=head.swin_projection)
            return LiftedMLPs(PooledMLP(projections, head.mlp, head.classifier))
        case BranchesHead():
            branches = cast("dict[Branch, BranchHead]", dict(head.branches.items()))
            return LiftedMLPs(
                *(PooledMLP(FeatureMaps({b: own.projection}), own.mlp, own.classifier) for b, own in branches.items())
            )
    return None


def _pooled_lifts(of: PooledMLP) -> FeatureMaps[Lift]:
    """The lifts of the branches of an MLP. Its biases are in the first, since the values of all branches are added."""
    widths = [projection.out_features for projection in of.projections.values()]
    to_hidden, to_logits = of.mlp.up.weight.split(widths, dim=1), of.classifier.weight.split(widths, dim=1)
    hidden_bias, logits_bias = of.mlp.up.bias, of.classifier(of.mlp.down.bias)
    lifts = FeatureMaps[Lift]()
    for branch, hidden, logits in zip(of.projections, to_hidden, to_logits, strict=True):
        projected = Affine.of(of.projections[branch])
        lifts[branch] = Lift(projected.then(hidden, hidden_bias), projected.then(logits, logits_bias))
        hidden_bias, logits_bias = torch.zeros_like(hidden_bias), torch.zeros_like(logits_bias)
    return lifts


def _transposed_product(outer: nn.Linear, inner: nn.Linear) -> Float[Tensor, "inner outer"]:
    """The weights of two layers as one matrix, for products from the left."""
    return (outer.weight.double() @ inner.weight.double()).T.float().contiguous()


def _normalised(
    norm: nn.LayerNorm, values: Float[Tensor, "*b e"], change: Float[Tensor, "*#b e"]
) -> tuple[Float[Tensor, "*b e"], Float[Tensor, "*b e"]]:
    """Layer norm of values along a line, and its derivative along the line, whose direction is `change`."""
    centred, change = values - values.mean(dim=-1, keepdim=True), change - change.mean(dim=-1, keepdim=True)
    scale = (centred.square().mean(dim=-1, keepdim=True) + norm.eps).rsqrt()
    unit, unit_change = centred * scale, change * scale
    slope = unit_change - unit * (unit * unit_change).mean(dim=-1, keepdim=True)
    return unit * norm.weight + norm.bias, slope * norm.weight


def _gelu_slope(values: Float[Tensor, "*b f"]) -> Float[Tensor, "*b f"]:
    """The derivative of GELU."""
    density = torch.exp(-0.5 * values.square()) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(values * math.sqrt(0.5))) + values * density


def _sum(tensors: Sequence[Float[Tensor, "*b f"]]) -> Float[Tensor, "*b f"]:
    return torch.stack(list(tensors)).sum(dim=0)
