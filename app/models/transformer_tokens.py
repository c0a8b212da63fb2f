"""The transformer's own tokens: their saliency at every stage, and the attention of the last block."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import torch
from timm.models.swin_transformer import window_partition
from torch import Tensor, nn
from torch.nn import functional as F

from app.models.backbones import in_this_thread, stage_tokens
from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import Branch, transformer_of
from app.shapes import Bool, Float, Int, Shaped, UInt8


class TransformerTokens(nn.Module):
    """Computes the saliency and the attention of a transformer's tokens. `transformer_tokens` creates the module.

    Inputs are prepared pictures `[B, H, W, 3]` uint8 and the score's gradient with respect to the transformer's feature
    map `[B, C, h, w]`. Outputs are the saliency of each stage in order, |gradient × token| summed over channels, `[B,
    h, w]`, and then, if `has_attention`, the attention of the last block `[B, heads, q, k]` between the cells of the
    map. Of stages whose grids have the same height, the last one counts; `heights` are those of the others. The model
    must be in eval mode.

    `has_attention` holds for a Swin and for a transformer of the ViT's kind, whose last block has one weight for every
    pair of tokens. A cell of a Swin attends only within its window, so its weights to cells of other windows are 0, and
    weights to the padding of a window are left out. Those of a ViT to its prefix tokens are left out too. So a row may
    sum to less than 1.
    """

    pair_index: Tensor
    same_window: Tensor

    def __init__(self, model: CNNViTFusion, branch: Branch) -> None:
        super().__init__()
        self.model, self.branch, self.layout = model, branch, model.layouts[branch]
        self.last = _last_attending_block(model.swin)
        self.has_windows = all(hasattr(self.last, name) for name in ("window_size", "shift_size"))
        stages, attention = self._run(torch.zeros(1, *model.image_size, 3, device=model.swin_mean.device).byte())
        _, height, width, _ = stages[-1].shape
        by_height = {tokens.shape[1]: number for number, tokens in enumerate(stages)}
        self.numbers = sorted(by_height.values())
        self.heights = tuple(stages[number].shape[1] for number in self.numbers)
        tokens = self.layout.prefix_tokens + height * width
        is_global = self.layout.order == "tokens" and attention is not None and attention.shape[2:] == (tokens, tokens)
        self.has_attention = attention is not None and (self.has_windows or is_global)
        if self.has_windows:
            pair_index, same_window = _cell_pairs(self.last, height, width)
            self.register_buffer("pair_index", pair_index.to(model.swin_mean.device), persistent=False)
            self.register_buffer("same_window", same_window.to(model.swin_mean.device), persistent=False)

    def forward(
        self, images: UInt8[Tensor, "b h w 3"], gradient: Float[Tensor, "b c gh gw"]
    ) -> tuple[Float[Tensor, "b ..."], ...]:
        stages, attention = self._run(images)
        final, before = stages[-1], [stages[number] for number in self.numbers[:-1]]
        by_token = gradient.permute(0, 2, 3, 1)
        gradients = torch.autograd.grad((final * by_token).sum(), before) if before else ()
        pairs = zip([*before, final], [*gradients, by_token], strict=True)
        saliency = [(tokens.detach() * of_tokens).abs().sum(dim=-1) for tokens, of_tokens in pairs]
        if not self.has_attention or attention is None:
            return tuple(saliency)
        return (*saliency, self._between_cells(attention, len(images)))

    def _run(self, images: UInt8[Tensor, "b h w 3"]) -> tuple[list[Float[Tensor, "b _h _w _c"]], Tensor | None]:
        """The tokens of all stages, and the weights of the last attention in its own order, if it says them."""
        pixels, given = images.permute(0, 3, 1, 2).float() / 255, list[Any]()
        keep = in_this_thread(lambda module, args, kwargs: given.append((args, kwargs)))
        hook = nullcontext() if self.last is None else self.last.attn.register_forward_pre_hook(keep, with_kwargs=True)
        with hook, torch.enable_grad():
            image = self.model.transformer_input(pixels)
            stages = stage_tokens(self.model.swin, self.layout, image, starts_at_first=True)
        return stages, _attention_weights(self.last.attn, *given[-1]) if given else None

    def _between_cells(self, weights: Float[Tensor, "_n heads _q _k"], pictures: int) -> Float[Tensor, "b heads q k"]:
        if not self.has_windows:
            return weights[:, :, self.layout.prefix_tokens :, self.layout.prefix_tokens :]
        by_head = weights.unflatten(0, (pictures, -1)).transpose(1, 2).flatten(2)
        of_pairs: Tensor = by_head[..., self.pair_index] * self.same_window
        return of_pairs


def transformer_tokens(model: CNNViTFusion) -> TransformerTokens | None:
    """The module for a model. None if the model has no transformer."""
    branch = None if model.swin is None else transformer_of(model.layouts)
    return None if branch is None else TransformerTokens(model, branch)


class _Kept(nn.Module):
    """In the place of an attention's dropout: keeps the weights."""

    weights: Tensor | None = None

    def forward(self, weights: Tensor) -> Tensor:
        self.weights = weights
        return weights


@torch.no_grad()
def _attention_weights(attending: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The weights that a timm attention pays to what it is given. None if it does not compute them."""
    kept, plain = _Kept(), copy.copy(attending)
    plain.fused_attn = False  # type: ignore[assignment]
    plain._modules = attending._modules | {"attn_drop": kept}
    plain(*args, **kwargs)
    return kept.weights


def _last_attending_block(transformer: nn.Module) -> Any:
    """The last block with an attention that has a dropout of its weights, as those of timm have. None without one."""
    blocks = [block for block in transformer.modules() if hasattr(getattr(block, "attn", None), "attn_drop")]
    return blocks[-1] if blocks else None


def _windows(block: Any, grid: Shaped[Tensor, "b h w c"]) -> Shaped[Tensor, "windows cells c"]:
    """Partition a grid into the windows of a block, after the block's cyclic shift, padded with 0 to whole windows."""
    (down, right), (height, width) = block.shift_size, block.window_size
    shifted = torch.roll(grid, (-down, -right), (1, 2))
    padded = F.pad(shifted, (0, 0, 0, -grid.shape[2] % width, 0, -grid.shape[1] % height))
    return window_partition(padded, block.window_size).flatten(1, 2)


def _cell_pairs(block: Any, height: int, width: int) -> tuple[Int[Tensor, "q k"], Bool[Tensor, "q k"]]:
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
