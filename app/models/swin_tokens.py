"""The Swin's own tokens: their saliency at every stage, and the attention of the last block."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformerBlock, window_partition
from torch import Tensor, nn
from torch.nn import functional as F

from app.models.cnnswin import CNNViTFusion
from app.shapes import Bool, Float, Int, Shaped, UInt8


class SwinTokens(nn.Module):
    """Computes the saliency and the attention of the Swin's tokens. `swin_tokens` creates the module.

    Inputs are prepared pictures `[B, H, W, 3]` uint8 and the score's gradient with respect to the Swin's feature map
    `[B, C, h, w]`. Outputs are the saliency of each stage in order, |gradient × token| summed over channels, `[B, h,
    w]`, then the attention of the last block `[B, heads, q, k]` between the cells of the Swin's map. A cell attends
    only within its window, so its weights to cells of other windows are 0. If the grid is no multiple of the window,
    the weights to the padding are left out, and a row sums to less than 1. Of stages whose grids have the same height,
    the last one counts. The model must be in eval mode.
    """

    pair_index: Tensor
    same_window: Tensor

    def __init__(self, model: CNNViTFusion) -> None:
        super().__init__()
        swin: Any = model.swin
        self.model, self.swin = model, swin
        self.last = swin.layers[-1].blocks[-1]
        heights = [int(stage.blocks[-1].input_resolution[0]) for stage in swin.layers]
        self.numbers = [number for number, height in enumerate(heights) if height not in heights[number + 1 :]]
        self.heights = tuple(heights[number] for number in self.numbers)
        pair_index, same_window = _cell_pairs(self.last, *model.map_shapes["swin"][1:])
        self.register_buffer("pair_index", pair_index.to(model.swin_mean.device), persistent=False)
        self.register_buffer("same_window", same_window.to(model.swin_mean.device), persistent=False)

    def forward(
        self, images: UInt8[Tensor, "b h w 3"], swin_gradient: Float[Tensor, "b c gh gw"]
    ) -> tuple[Float[Tensor, "b ..."], ...]:
        pixels = images.permute(0, 3, 1, 2).float() / 255
        tokens = self.swin.patch_embed((pixels - self.model.swin_mean) / self.model.swin_std)
        by_token = swin_gradient.permute(0, 2, 3, 1)
        stages: list[Tensor] = []
        with torch.enable_grad():
            for stage in self.swin.layers[:-1]:
                tokens = stage(tokens)
                # Differentiation starts at the first stage's tokens: they are a leaf.
                tokens = tokens if stages else tokens.detach().requires_grad_()
                stages.append(tokens)
            tokens = self.swin.layers[-1].downsample(tokens)
            for block in self.swin.layers[-1].blocks[:-1]:
                tokens = block(tokens)
            attention = self._attention(tokens.detach())
            final = self.swin.norm(self.last(tokens))
            gradients = torch.autograd.grad((final * by_token).sum(), stages) if stages else ()
        pairs = list(zip([*stages, final], [*gradients, by_token], strict=True))
        every = (pairs[number] for number in self.numbers)
        return (*((token.detach() * gradient).abs().sum(dim=-1) for token, gradient in every), attention)

    def _attention(self, tokens: Float[Tensor, "b h w c"]) -> Float[Tensor, "b heads q k"]:
        attention, pictures = self.last.attn, len(tokens)
        windows = _windows(self.last, self.last.norm1(tokens))
        size = windows.shape[1]
        query, key, _ = attention.qkv(windows).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = query * attention.scale @ key.transpose(-2, -1) + attention._get_rel_pos_bias()
        scores = scores.reshape(pictures, -1, attention.num_heads, size, size)
        if self.last.attn_mask is not None:
            scores = scores + self.last.attn_mask[:, None]
        by_head = scores.softmax(dim=-1).transpose(1, 2).flatten(2)
        weights: Tensor = by_head[..., self.pair_index] * self.same_window
        return weights


def swin_tokens(model: CNNViTFusion) -> SwinTokens | None:
    """The module for a model. None if the model has no Swin, or a transformer with another kind of blocks."""
    last: Any = model.swin.layers[-1].blocks[-1] if model.swin is not None else None
    if not isinstance(last, SwinTransformerBlock) or last.dynamic_mask:
        return None
    return SwinTokens(model)


def _windows(block: SwinTransformerBlock, grid: Shaped[Tensor, "b h w c"]) -> Shaped[Tensor, "windows cells c"]:
    """Partition a grid into the windows of a block, after the block's cyclic shift, padded with 0 to whole windows."""
    (down, right), (height, width) = block.shift_size, block.window_size
    shifted = torch.roll(grid, (-down, -right), (1, 2))
    padded = F.pad(shifted, (0, 0, 0, -grid.shape[2] % width, 0, -grid.shape[1] % height))
    return window_partition(padded, block.window_size).flatten(1, 2)


def _cell_pairs(block: SwinTransformerBlock, height: int, width: int) -> tuple[Int[Tensor, "q k"], Bool[Tensor, "q k"]]:
    """For each pair of cells: the index of its weight among those of all windows, and whether both share a window."""
    cell_numbers = torch.arange(1, height * width + 1).reshape(1, height, width, 1)  # from 1: padding is 0
    cells = _windows(block, cell_numbers)[..., 0]
    windows, size = cells.shape
    position = torch.empty(height * width, dtype=torch.long)
    is_cell = cells.flatten() > 0
    position[cells.flatten()[is_cell] - 1] = torch.arange(windows * size)[is_cell]
    window, slot = position // size, position % size
    same_window = window[:, None] == window
    return (window[:, None] * size + slot[:, None]) * size + slot, same_window
