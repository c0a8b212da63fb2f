"""The fusion classifier: a CNN and a transformer see one picture, and the transformer's tokens query the CNN's tokens.

The transformer is a Swin or any other that timm has. Its weights and options are named `swin` whichever it is; its map
is named `swin` or `vit`, as `app.models.feature_maps.Branch` says.

The model is cut once, at the last feature maps of its two branches:

    image --encode--> FeatureMaps --classify--> logits, attention

Nothing bypasses the maps on the way to the logits, and the value path has no normalisation. A layer norm there would
make the score blind to the scale of a cell, and gradient × activation would vanish. So Grad-CAM at the cut is exact.
Queries and keys are normalised per attention head, where attention needs it.

Sources: EfficientNet (Tan & Le 2019), Swin (Liu et al. 2021), query-key normalisation (Henry et al. 2020).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.models.backbones import (
    Layout,
    cnn_backbone,
    normalization,
    stage_tokens,
    transformer_backbone,
    transformer_branch,
)
from app.models.feature_maps import Branch, FeatureMaps
from app.shapes import Float

Fusion = Literal["cross_attention", "concat", "late", "cnn", "swin"]
FUSIONS: tuple[Fusion, ...] = get_args(Fusion)
Grid = tuple[int, int]
Shape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class FusionOutput:
    """The output of `CNNViTFusion.forward_with_tokens`.

    `tokens` `[B, h, w, C]` are the transformer's tokens at the chosen stage, in the same autograd graph as the logits.
    """

    logits: Tensor
    maps: FeatureMaps[Tensor]
    attention: Tensor | None
    tokens: Tensor


class ResidualMLP(nn.Module):
    """x + W2 GELU(W1 x). It has no normalisation, because it is on the value path."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.activation, self.dropout = nn.GELU(), nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        update: Tensor = self.dropout(self.down(self.activation(self.up(x))))
        return x + update


class CrossModelAttention(nn.Module):
    """Multi-head cross-attention with a residual connection: queries are Swin tokens, keys and values are CNN tokens.

    Learned 2-D position embeddings are added for queries and keys, but not for values. Keys are not pooled, because
    with a single pooled key every attention weight would be 1. Raises ValueError if `heads` does not divide `dim`.
    """

    def __init__(self, dim: int, heads: int, query_grid: Grid, key_grid: Grid, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
        self.heads, head_dim = heads, dim // heads
        self.query_position = nn.Parameter(torch.randn(*query_grid, dim) * 0.02)
        self.key_position = nn.Parameter(torch.randn(*key_grid, dim) * 0.02)
        self.query, self.key, self.value, self.output = (nn.Linear(dim, dim) for _ in range(4))
        self.query_norm, self.key_norm = nn.LayerNorm(head_dim), nn.LayerNorm(head_dim)
        self.scale = head_dim**-0.5
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, swin_tokens: Float[Tensor, "b q d"], cnn_tokens: Float[Tensor, "b k d"]
    ) -> tuple[Float[Tensor, "b q d"], Float[Tensor, "b heads q k"]]:
        """The Swin tokens plus the attended CNN tokens, and the attention weights, whose rows sum to 1."""
        query = self.query_norm(self._split(self.query(swin_tokens + self.query_position.flatten(0, 1))))
        key = self.key_norm(self._split(self.key(cnn_tokens + self.key_position.flatten(0, 1))))
        attention = (query @ key.transpose(-2, -1) * self.scale).softmax(dim=-1)
        attended = self.dropout(attention) @ self._split(self.value(cnn_tokens))
        return swin_tokens + self.output(attended.transpose(1, 2).flatten(2)), attention

    def _split(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b heads n e"]:
        return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


class CrossAttentionHead(nn.Module):
    """From maps to logits: `CrossModelAttention`, an MLP on every token, the mean over tokens, a linear classifier."""

    def __init__(self, shapes: FeatureMaps[Shape], dim: int, heads: int, classes: int, dropout: float):
        super().__init__()
        self.branches = cnn, transformer = two_branches(shapes)
        self.cnn_projection, self.swin_projection = (nn.Linear(shapes[branch][0], dim) for branch in self.branches)
        self.attention = CrossModelAttention(dim, heads, shapes[transformer][1:], shapes[cnn][1:], dropout)
        self.mlp = ResidualMLP(dim, 2 * dim, dropout)
        self.classifier = nn.Linear(dim, classes)

    def forward(self, maps: FeatureMaps[Tensor]) -> tuple[Float[Tensor, "b classes"], Float[Tensor, "b heads q k"]]:
        cnn, transformer = (as_tokens(maps[branch]) for branch in self.branches)
        tokens, attention = self.attention(self.swin_projection(transformer), self.cnn_projection(cnn))
        return self.classifier(self.mlp(tokens).mean(dim=1)), attention


class ConcatHead(nn.Module):
    """The comparator without attention: each map is projected and pooled, and the two vectors are concatenated.

    It has about as many weights as `CrossAttentionHead`.
    """

    def __init__(self, shapes: FeatureMaps[Shape], dim: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.branches = two_branches(shapes)
        self.cnn_projection, self.swin_projection = (nn.Linear(shapes[branch][0], dim) for branch in self.branches)
        self.mlp = ResidualMLP(2 * dim, 2 * dim, dropout)
        self.classifier = nn.Linear(2 * dim, classes)

    def forward(self, maps: FeatureMaps[Tensor]) -> tuple[Float[Tensor, "b classes"], None]:
        cnn, transformer = (as_tokens(maps[branch]) for branch in self.branches)
        pooled = self.cnn_projection(cnn).mean(dim=1), self.swin_projection(transformer).mean(dim=1)
        return self.classifier(self.mlp(torch.cat(pooled, dim=-1))), None


class BranchHead(nn.Module):
    """The head of a single branch: a projection, the mean over cells, an MLP, a linear classifier."""

    def __init__(self, channels: int, dim: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, dim)
        self.mlp = ResidualMLP(dim, 2 * dim, dropout)
        self.classifier = nn.Linear(dim, classes)

    def forward(self, feature_map: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        logits: Tensor = self.classifier(self.mlp(self.projection(as_tokens(feature_map)).mean(dim=1)))
        return logits


class BranchesHead(nn.Module):
    """The head of the fusions `late`, `cnn` and `swin`: the mean of the logits of a `BranchHead` for each branch."""

    def __init__(self, shapes: FeatureMaps[Shape], dim: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(
            {branch: BranchHead(shape[0], dim, classes, dropout) for branch, shape in shapes.items()}
        )

    def forward(self, maps: FeatureMaps[Tensor]) -> tuple[Float[Tensor, "b classes"], None]:
        logits = [self.branches[branch](feature_map) for branch, feature_map in maps.items()]
        return torch.stack(logits).mean(dim=0), None


def head_of(
    fusion: Fusion, shapes: FeatureMaps[Shape], dim: int, heads: int, classes: int, dropout: float
) -> nn.Module:
    """The head of a fusion for maps of these shapes. Raises ValueError if `heads` does not divide `dim`."""
    if fusion == "cross_attention":
        return CrossAttentionHead(shapes, dim, heads, classes, dropout)
    if fusion == "concat":
        return ConcatHead(shapes, dim, classes, dropout)
    return BranchesHead(shapes, dim, classes, dropout)


class CNNViTFusion(nn.Module):
    """The fusion classifier. `cnn` and `swin` are names of timm backbones, of which `swin` is any transformer.

    Nothing is downloaded. `image_size` is (height, width) in px. `cnn_options` and `swin_options` are passed to
    `timm.create_model`. `cnn_reduction` and `swin_reduction` cut a branch behind the last stage whose cells have sides
    of so many px, by default behind its last stage. With `swin_image_size`, the transformer sees the picture at that
    size, of the same shape: it is resampled in the model. Raises ValueError for a fusion that is not in `FUSIONS`, a
    backbone, options or a cut that `app.models.backbones` refuses, one backbone for both branches, sizes below 1, or a
    `dim` that `heads` does not divide.
    """

    cnn_mean: Tensor
    cnn_std: Tensor
    swin_mean: Tensor
    swin_std: Tensor
    swin_rows: Tensor | None
    swin_columns: Tensor | None

    def __init__(
        self,
        num_classes: int,
        *,
        cnn: str = "efficientnet_b0",
        swin: str = "swin_tiny_patch4_window7_224",
        fusion: Fusion = "cross_attention",
        image_size: tuple[int, int] = (224, 224),
        dim: int = 512,
        heads: int = 8,
        dropout: float = 0.0,
        cnn_options: Mapping[str, Any] | None = None,
        swin_options: Mapping[str, Any] | None = None,
        cnn_reduction: int | None = None,
        swin_reduction: int | None = None,
        swin_image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"unknown fusion {fusion!r}: choose one of {', '.join(FUSIONS)}")
        swin_size = swin_image_size or image_size
        if swin_size[0] * image_size[1] != swin_size[1] * image_size[0]:
            raise ValueError(f"swin_image_size: {swin_size} has another shape than image_size, {tuple(image_size)}")
        for key, number in (
            ("image_size", min(*image_size, *swin_size)),
            ("dim", dim),
            ("heads", heads),
            ("classes", num_classes),
        ):
            if number < 1:
                raise ValueError(f"{key} is {number}: choose 1 or more")
        if (
            fusion not in ("cnn", "swin") and cnn.partition(".")[0] == swin.partition(".")[0]
        ):  # behind it: which weights
            raise ValueError(f"swin: both branches would be {cnn}: choose two backbones, or fusion cnn")
        self.num_classes, self.fusion, self.image_size = num_classes, fusion, tuple(image_size)
        self.cnn: Any = None
        self.swin: Any = None
        self.layouts: dict[Branch, Layout] = {}
        if fusion != "swin":
            self.cnn, self.layouts["cnn"] = cnn_backbone(cnn, image_size, cnn_options or {}, cnn_reduction)
        if fusion != "cnn":
            self.swin, layout = transformer_backbone(swin, swin_size, swin_options or {}, swin_reduction)
            self.layouts[transformer_branch(self.swin)] = layout
        for branch, backbone in (("cnn", self.cnn), ("swin", self.swin)):
            if backbone is not None:
                mean, std = normalization(backbone)
                self.register_buffer(f"{branch}_mean", _per_channel(mean))
                self.register_buffer(f"{branch}_std", _per_channel(std))
        for side, name in enumerate(("swin_rows", "swin_columns")):
            matrix = None if tuple(swin_size) == self.image_size else resampling(self.image_size[side], swin_size[side])
            self.register_buffer(name, matrix, persistent=False)
        self.map_shapes = shapes = self._probe_shapes()
        self.head = head_of(fusion, shapes, dim, heads, num_classes, dropout)

    def forward(
        self, cnn_image: Float[Tensor, "b 3 h w"], swin_image: Float[Tensor, "b 3 h w"] | None = None
    ) -> Float[Tensor, "b classes"]:
        """From RGB in [0, 1] to logits. Both branches see `cnn_image`, unless `swin_image` is given as another view."""
        return self.classify(self.encode(cnn_image, swin_image))[0]

    def encode(
        self, cnn_image: Float[Tensor, "b 3 h w"], swin_image: Float[Tensor, "b 3 h w"] | None = None
    ) -> FeatureMaps[Tensor]:
        """From RGB in [0, 1] to the feature map of each branch, `[B, C, h, w]`: the cut of the model."""
        return self._encode(cnn_image, swin_image)[0]

    def classify(
        self, maps: FeatureMaps[Tensor]
    ) -> tuple[Float[Tensor, "b classes"], Float[Tensor, "b heads q k"] | None]:
        """From feature maps to logits, and to the attention weights if the fusion is cross-attention.

        Raises ValueError if the branches or the shapes of the maps are not those of `map_shapes`.
        """
        if (shapes := _shapes(maps)) != self.map_shapes:
            raise ValueError(f"this model classifies maps of {dict(self.map_shapes)}, not {dict(shapes)}")
        logits, attention = self.head(maps)
        return logits, attention

    def forward_with_tokens(
        self,
        cnn_image: Float[Tensor, "b 3 h w"],
        swin_image: Float[Tensor, "b 3 h w"] | None = None,
        token_stage: int = 7,
    ) -> FusionOutput:
        """`forward` with its intermediate results.

        `token_stage` chooses a stage of the transformer by the height of its grid: 7, 14, 28 or 56 of a Swin at 224 px.
        Of stages with the same height the last one counts. The tokens of the last stage are the transformer's feature
        map. Raises ValueError if there is no such stage, or no transformer.
        """
        maps, stages = self._encode(cnn_image, swin_image, with_stages=True)
        by_height = {tokens.shape[1]: tokens for tokens in stages}
        if token_stage not in by_height:
            heights = ", ".join(map(str, sorted(by_height))) or "none: this model has no such branch"
            raise ValueError(f"no stage of the transformer has a grid of height {token_stage}; there are {heights}")
        logits, attention = self.classify(maps)
        return FusionOutput(logits, maps, attention, by_height[token_stage])

    def transformer_input(self, image: Float[Tensor, "b 3 _h _w"]) -> Float[Tensor, "b 3 _h _w"]:
        """RGB in [0, 1], at the size and with the normalisation that the transformer was made for."""
        if self.swin_rows is not None and self.swin_columns is not None:
            image = self.swin_rows @ image @ self.swin_columns.T
        return (image - self.swin_mean) / self.swin_std

    def _encode(
        self, cnn_image: Tensor, swin_image: Tensor | None, with_stages: bool = False
    ) -> tuple[FeatureMaps[Tensor], list[Tensor]]:
        """The maps and, if they are wanted, the tokens `[B, h, w, C]` of the transformer's stages."""
        maps, stages = FeatureMaps[Tensor](), list[Tensor]()
        for branch, layout in self.layouts.items():
            if branch == "cnn":
                maps[branch] = layout.map_of(self.cnn.forward_features((cnn_image - self.cnn_mean) / self.cnn_std))
                continue
            image = self.transformer_input(cnn_image if swin_image is None else swin_image)
            if with_stages:
                stages = stage_tokens(self.swin, layout, image)
                maps[branch] = stages[-1].permute(0, 3, 1, 2)
            else:
                maps[branch] = layout.map_of(self.swin.forward_features(image))
        return maps, stages

    @torch.no_grad()
    def _probe_shapes(self) -> FeatureMaps[Shape]:
        training = self.training
        maps = self.eval().encode(torch.zeros(1, 3, *self.image_size))
        self.train(training)
        return _shapes(maps)


def resampling(pixels: int, target: int) -> Float[Tensor, "target pixels"]:
    """The matrix that resamples one side of a picture, bicubic and with antialiasing, as `torch` does.

    As a product of matrices every runtime computes it alike.
    """
    one_hot = torch.eye(pixels)[None, None]
    return functional.interpolate(one_hot, (target, pixels), mode="bicubic", antialias=True)[0, 0]


def two_branches(branches: Iterable[Branch]) -> tuple[Branch, Branch]:
    """The two branches of a head that joins them, the CNN's first."""
    cnn, transformer = branches
    return cnn, transformer


def as_tokens(feature_map: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
    """The cells of a map as tokens, row by row. Contiguous, so that a linear layer is a single matrix product."""
    return feature_map.flatten(2).transpose(1, 2).contiguous()


def _shapes(maps: FeatureMaps[Tensor]) -> FeatureMaps[Any]:  # int, or torch.SymInt while a graph is traced
    return maps.map(lambda feature_map: (feature_map.shape[1], feature_map.shape[2], feature_map.shape[3]))


def _per_channel(values: tuple[float, float, float]) -> Float[Tensor, "1 3 1 1"]:
    return torch.tensor(values).view(1, 3, 1, 1)
