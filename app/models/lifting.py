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
        self.register_buffer("matrix", matrix.float().contiguous())
        self.register_buffer("offset", offset.float().contiguous())

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
        logits: Tensor = by_token.mean(dim=1)
        return logits

    def evidence(
        self,
        lines: FeatureMaps[Line],
        positions: Float[Tensor, " nodes"],
        targets: Float[Tensor, "targets classes"],
    ) -> FeatureMaps[Float[Tensor, "nodes targets _cells"]]:
        """See `LiftedHead.evidence`. The gradient is written out, so that nothing is computed that does not count."""
        queries, own_hidden, own_logits = Line.each(*map(self._swin_parts, lines["swin"]))
        keys, values = Line.each(*map(self._cnn_parts, lines["cnn"]))
        scores, by_queries, by_keys = self._scores(queries, keys, positions)
        weights, value = scores.softmax(dim=-1), values.at(positions)
        attended = (weights @ value).transpose(1, 2).flatten(2)
        slope = _gelu_slope(own_hidden.at(positions) + attended @ self.attended_to_hidden)[:, None]

        # Gradients by node and target, `[nodes, targets, ...]`. Every token has the same part in the mean over tokens.
        of_token = targets / slope.shape[2]
        of_hidden, direct = of_token @ self.hidden_to_logits.T, of_token @ self.attended_to_logits.T
        of_attended = (slope * of_hidden[:, None]) @ self.attended_to_hidden.T + direct[:, None]
        of_attended = of_attended.unflatten(-1, (self.heads, -1)).transpose(2, 3)
        of_weights = of_attended @ value.transpose(-2, -1)[:, None]
        weights = weights[:, None]
        weighted = weights * of_weights
        of_scores = weighted - weights * weighted.sum(dim=-1, keepdim=True)

        by_query = (of_scores * by_queries[:, None]).sum(dim=(2, 4))
        by_hidden = (slope * own_hidden.change) @ of_hidden.T
        by_logits = own_logits.change @ of_token.T
        by_value = weights * (of_attended @ values.change.transpose(-2, -1))
        return FeatureMaps(
            {
                "cnn": (of_scores * by_keys[:, None] + by_value).sum(dim=(2, 3)),
                "swin": by_query + (by_hidden.squeeze(1) + by_logits).transpose(1, 2),
            }
        )

    def _scores(
        self, queries: Line, keys: Line, positions: Float[Tensor, " nodes"]
    ) -> tuple[Float[Tensor, "nodes heads q k"], Float[Tensor, "nodes heads q k"], Float[Tensor, "nodes heads q k"]]:
        """The attention's scores along the path, and their derivatives as the queries, or as the keys, change alone.

        A score is the inner product of two layer norms. Along the path, products of centred values and variances are
        polynomials, whose coefficients follow from both ends. What is the same for all keys is left out, since it does
        not change the softmax.
        """
        at = positions[:, None, None, None]
        query, key = (Line(*map(_centred, line)) for line in (queries, keys))
        scaled = torch.cat(query, dim=-2) * (self.scale * self.query_norm.weight * self.key_norm.weight)
        products = scaled @ torch.cat(key, dim=-2).transpose(-2, -1)
        (start, of_keys), (of_queries, of_both) = (
            rows.split(products.shape[-1] // 2, dim=-1) for rows in products.split(products.shape[-2] // 2, dim=-2)
        )
        of_queries, of_keys = of_queries + at * of_both, of_keys + at * of_both
        product = start + at * (of_queries + of_keys - at * of_both)
        (one, one_slope), (other, other_slope) = (
            _inverse_deviation(line, norm.eps, at) for line, norm in ((query, self.query_norm), (key, self.key_norm))
        )
        other, other_slope = other.transpose(-2, -1), other_slope.transpose(-2, -1)
        bias = Line(*(part @ (self.scale * self.query_norm.bias * self.key_norm.weight) for part in key))
        key_bias, key_bias_slope = bias.at(positions)[..., None, :], bias.change[..., None, :]
        return (
            (product * one + key_bias) * other,
            (of_queries * one + product * one_slope) * other,
            (of_keys * one + key_bias_slope) * other + (product * one + key_bias) * other_slope,
        )

    def _swin_parts(
        self, values: Float[Tensor, "*b q _features"]
    ) -> tuple[Float[Tensor, "*b heads q e"], Float[Tensor, "*b q hidden"], Float[Tensor, "*b q classes"]]:
        hidden, attended = self.attended_to_hidden.shape[1], self.attended_to_hidden.shape[0]
        query, own_hidden, own_logits = values.split([attended, hidden, values.shape[-1] - attended - hidden], dim=-1)
        return self._by_head(query), own_hidden, own_logits

    def _cnn_parts(
        self, values: Float[Tensor, "*b k _features"]
    ) -> tuple[Float[Tensor, "*b heads k e"], Float[Tensor, "*b heads k e"]]:
        key, value = values.chunk(2, dim=-1)
        return self._by_head(key), self._by_head(value)

    def _by_head(self, values: Float[Tensor, "*b n _d"]) -> Float[Tensor, "*b heads n e"]:
        by_head: Tensor = values.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
        return by_head


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
        self,
        lines: FeatureMaps[Line],
        positions: Float[Tensor, " nodes"],
        targets: Float[Tensor, "targets classes"],
    ) -> FeatureMaps[Float[Tensor, "nodes targets _cells"]]:
        """See `LiftedHead.evidence`. All cells of a map have the same gradient."""
        evidence = FeatureMaps[Tensor]()
        of_logits = targets / len(self.branches)
        for branches, hidden_to_logits in zip(self.branches, self.hidden_to_logits, strict=True):
            pooled = _sum([lines[branch].at(positions).mean(dim=1) for branch in branches])
            of_hidden = _gelu_slope(self._parts(pooled)[0])[:, None] * (of_logits @ hidden_to_logits.T)
            for branch in branches:
                hidden, logits = self._parts(lines[branch].change / len(lines[branch].change))
                evidence[branch] = of_hidden @ hidden.T + of_logits @ logits.T
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
    hidden_bias: Tensor = of.mlp.up.bias
    logits_bias: Tensor = of.classifier(of.mlp.down.bias)
    lifts = FeatureMaps[Lift]()
    for branch, hidden, logits in zip(of.projections, to_hidden, to_logits, strict=True):
        projected = Affine.of(of.projections[branch])
        lifts[branch] = Lift(projected.then(hidden, hidden_bias), projected.then(logits, logits_bias))
        hidden_bias, logits_bias = torch.zeros_like(hidden_bias), torch.zeros_like(logits_bias)
    return lifts


def _transposed_product(outer: nn.Linear, inner: nn.Linear) -> Float[Tensor, "inner outer"]:
    """The weights of two layers as one matrix, for products from the left."""
    return (outer.weight.double() @ inner.weight.double()).T.float().contiguous()


def _centred(values: Float[Tensor, "*b e"]) -> Float[Tensor, "*b e"]:
    return values - values.mean(dim=-1, keepdim=True)


def _inverse_deviation(
    centred: Line, eps: float, at: Float[Tensor, "nodes 1 1 1"]
) -> tuple[Float[Tensor, "nodes heads n 1"], Float[Tensor, "nodes heads n 1"]]:
    """1 / the standard deviation of centred values along a line, and its derivative."""
    start, both, change = (
        (one * other).mean(dim=-1, keepdim=True)
        for one, other in ((centred.start, centred.start), centred, (centred.change, centred.change))
    )
    inverse = (start + at * (2 * both + at * change) + eps).rsqrt()
    return inverse, -inverse * inverse.square() * (both + at * change)


def _gelu_slope(values: Float[Tensor, "*b f"]) -> Float[Tensor, "*b f"]:
    """The derivative of GELU."""
    density = torch.exp(-0.5 * values.square()) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(values * math.sqrt(0.5))) + values * density


def _sum(tensors: Sequence[Float[Tensor, "*b f"]]) -> Float[Tensor, "*b f"]:
    return torch.stack(list(tensors)).sum(dim=0)
