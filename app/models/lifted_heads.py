"""The lifted forms of the model's heads: see `app.models.lifting`."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.models.cnnswin import (
    BranchesHead,
    BranchHead,
    ConcatHead,
    CrossAttentionHead,
    CrossModelAttention,
    ResidualMLP,
)
from app.models.feature_maps import Branch, FeatureMaps
from app.models.lifting import Affine, Lift, Lifted, LiftedHead, Line
from app.shapes import Float


class LiftedAttention(LiftedHead):
    """`CrossAttentionHead`.

    Lifted values are the key and the value of each CNN token, and of each token of the transformer its query, its part
    of the MLP's hidden units, and its part of the logits. Behind the attention, what follows until the activation is
    one matrix.
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
        lifts = Lift(key, cnn.into(attention.value)), Lift(query, after.into(mlp.up), direct)
        super().__init__(FeatureMaps(zip(head.branches, lifts, strict=True)))
        self.branches = head.branches
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
        cnn, transformer = (lifted[branch] for branch in self.branches)
        query, own_hidden, own_logits = self._query_parts(transformer)
        key, value = self._key_parts(cnn)
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
        cnn, transformer = (lines[branch] for branch in self.branches)
        queries, own_hidden, own_logits = Line.each(*map(self._query_parts, transformer))
        keys, values = Line.each(*map(self._key_parts, cnn))
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
        of_cnn = (of_scores * by_keys[:, None] + by_value).sum(dim=(2, 3))
        of_transformer = by_query + (by_hidden.squeeze(1) + by_logits).transpose(1, 2)
        return FeatureMaps(zip(self.branches, (of_cnn, of_transformer), strict=True))

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

    def _query_parts(
        self, values: Float[Tensor, "*b q _features"]
    ) -> tuple[Float[Tensor, "*b heads q e"], Float[Tensor, "*b q hidden"], Float[Tensor, "*b q classes"]]:
        hidden, attended = self.attended_to_hidden.shape[1], self.attended_to_hidden.shape[0]
        query, own_hidden, own_logits = values.split([attended, hidden, values.shape[-1] - attended - hidden], dim=-1)
        return self._by_head(query), own_hidden, own_logits

    def _key_parts(
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
    """The lifted form of a head in evaluation mode, with tensors of its own, composed in double precision.

    None for a head of another kind, or with a layer of another kind: such a head is used as it is.
    """
    if any(type(module) not in _LIFTED_LAYERS for module in head.modules()):
        return None
    lifted = _lifted_in_double(head)
    return None if lifted is None else lifted.to(next(head.parameters()).dtype)


def _lifted_in_double(head: nn.Module) -> LiftedHead | None:
    match head:
        case CrossAttentionHead():
            return LiftedAttention(head)
        case ConcatHead():
            projections = zip(head.branches, (head.cnn_projection, head.swin_projection), strict=True)
            return LiftedMLPs(PooledMLP(FeatureMaps(projections), head.mlp, head.classifier))
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
    return (outer.weight.double() @ inner.weight.double()).T.contiguous()


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
