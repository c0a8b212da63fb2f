"""The backbones of the branches: models of timm that have what `CNNViTFusion` needs of them.

A branch's map is what `forward_features` of timm gives: a map `[B, C, h, w]` of a CNN, a map with the channels last of
a Swin, or tokens of a ViT, of which those before the cells are dropped. A cut at an earlier stage removes the later
ones. What is checked is what the fusion model uses, not the family of the model. A name or an option that does not lead
to such a backbone is a ValueError, whose message says what is missing.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from app.models.feature_maps import Branch
from app.shapes import Float

# timm does not check its options, so a wrong one raises whatever the code that uses it raises.
_OPTION_ERRORS = (
    *(ValueError, TypeError, RuntimeError, AssertionError, LookupError, AttributeError, ArithmeticError),
    *(MemoryError, ImportError),
)
_SET_BY_THE_MODEL = ("num_classes", "in_chans", "features_only")
_OTHER_WEIGHTS = ("pretrained", "checkpoint", "cache_dir")  # options that begin so load weights from elsewhere
Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Layout:
    """Where the feature map is in what `forward_features` gives: after so many tokens, on a grid, or as a map."""

    order: Literal["NCHW", "NHWC", "tokens"]
    prefix_tokens: int = 0
    grid: Size = (0, 0)

    def tokens_of(self, features: Float[Tensor, "b ..."]) -> Float[Tensor, "b h w c"]:
        """The cells of the map, with the channels last."""
        match self.order:
            case "NCHW":
                return features.permute(0, 2, 3, 1)
            case "NHWC":
                return features
            case "tokens":
                cells: Tensor = features[:, self.prefix_tokens :].unflatten(1, self.grid)
                return cells

    def map_of(self, features: Float[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        """The feature map, with the channels first."""
        return features if self.order == "NCHW" else self.tokens_of(features).permute(0, 3, 1, 2)

    def with_tokens(self, features: Float[Tensor, "b ..."], tokens: Float[Tensor, "b h w c"]) -> Float[Tensor, "b ..."]:
        """The features, with these cells: the inverse of `tokens_of`."""
        match self.order:
            case "NCHW":
                return tokens.permute(0, 3, 1, 2)
            case "NHWC":
                return tokens
            case "tokens":
                return torch.cat([features[:, : self.prefix_tokens], tokens.flatten(1, 2)], dim=1)

    def holds(self, features: Any) -> bool:
        """Whether `tokens_of` takes what a stage gives."""
        if not isinstance(features, Tensor):
            return False
        if self.order == "tokens":
            return features.ndim == 3 and features.shape[1] == self.prefix_tokens + self.grid[0] * self.grid[1]
        return features.ndim == 4


def cnn_backbone(
    name: str, image_size: Size, options: Mapping[str, Any], reduction: int | None = None
) -> tuple[Any, Layout]:
    """Build the timm model `name` without a classifier, with random weights, and say where its map is.

    `image_size` is in px. The map is that of the last stage whose cells have sides of `reduction` px, or the last one
    of all. Raises ValueError if `forward_features` of the model does not give a feature map `[B, C, h, w]` of such
    pictures, or if there is no such stage.
    """
    backbone = _create("cnn", name, options, **size_options(name, image_size))
    if not callable(getattr(backbone, "forward_features", None)):
        raise ValueError(f"cnn: {name} computes no feature map (it has no forward_features): choose another CNN")
    own = _run("cnn", name, backbone, image_size, backbone.forward_features)
    if not isinstance(own, Tensor) or own.ndim != 4 or own.shape[1] != backbone.num_features:
        raise ValueError(
            f"cnn: {name} gives {_described(own)} of one picture, not a feature map [B, C, h, w] with "
            f"{backbone.num_features} channels: choose another"
        )
    return backbone, _cut("cnn", name, backbone, Layout("NCHW"), image_size, reduction)


def transformer_backbone(
    name: str, image_size: Size, options: Mapping[str, Any], reduction: int | None = None
) -> tuple[Any, Layout]:
    """Build the timm transformer `name` for pictures of `image_size` px, with random weights, and say where its map is.

    The map is that of the last stage whose cells have sides of `reduction` px, or the last one of all. Raises
    ValueError if what `forward_features` gives has no grid of cells, if `image_size` is no multiple of the model's
    patches, or if there is no such stage.
    """
    _check_patches(name, options.get("patch_size", 4 if name.startswith("swin") else 1), image_size)
    backbone = _create("swin", name, options, **size_options(name, image_size))
    if any(len(getattr(stage, "blocks", [stage])) == 0 for stage in getattr(backbone, "layers", ())):
        raise ValueError(f"swin: {name} has a stage without blocks: choose depths of 1 or more")
    projection = getattr(getattr(backbone, "patch_embed", None), "proj", None)
    if isinstance(projection, nn.Conv2d) and projection.stride == projection.kernel_size:
        _check_patches(name, projection.stride, image_size)
    own = _run("swin", name, backbone, image_size, backbone.forward_features)
    if not isinstance(own, Tensor) or own.ndim not in (3, 4):
        raise ValueError(f"swin: {name} gives {_described(own)} of one picture, which has no grid: choose another")
    if own.ndim == 3:
        layout = _layout_of_tokens(name, own, _map_by_timm(name, backbone, image_size))
    else:
        layout = Layout("NHWC" if getattr(backbone, "output_fmt", "NCHW") == "NHWC" else "NCHW")
    if layout.map_of(own).shape[1] != backbone.num_features or 0 in own.shape:
        raise ValueError(
            f"swin: {name} gives {_described(own)} of one picture, not a feature map of {backbone.num_features} "
            "channels: choose another"
        )
    return backbone, _cut("swin", name, backbone, layout, image_size, reduction)


def size_options(name: str, image_size: Size) -> dict[str, Any]:
    """The option that tells a timm model the size of its pictures, if it is one that has to be told."""
    config = timm.get_pretrained_cfg(name.partition(".")[0])  # what follows names weights
    return {"img_size": tuple(image_size)} if config is not None and config.fixed_input_size else {}


def transformer_branch(backbone: nn.Module) -> Branch:
    """The name of a transformer's branch: `swin` for the first and the second Swin, `vit` for every other one."""
    return "swin" if type(backbone).__module__.startswith("timm.models.swin_transformer") else "vit"


def stage_tokens(
    backbone: Any, layout: Layout, image: Float[Tensor, "b 3 H W"], starts_at_first: bool = False
) -> list[Float[Tensor, "b h_ w_ c_"]]:
    """From normalised pictures to the cells at the end of every stage or block that timm names, and of the map, last.

    Each is computed from those before it, so that the map can be differentiated with respect to any of them. If
    `starts_at_first` is set, the graph begins with the first. Left out is what has no cells, or where the map has
    tokens, another number of them, and what has its channels elsewhere than the map.
    """
    stages = dict[int, Tensor]()

    def keep(number: int, channels: int, output: Any) -> Any:
        if not layout.holds(output) or (tokens := layout.tokens_of(output)).shape[-1] != channels:
            return None
        stages[number] = tokens.detach().requires_grad_() if starts_at_first and not stages else tokens
        return layout.with_tokens(output, stages[number])

    with ExitStack() as hooks:
        for number, stage in enumerate(getattr(backbone, "feature_info", ())):
            if (module := _submodule(backbone, stage.get("module", ""))) is not None:
                hook = in_this_thread(lambda m, given, output, n=number, c=stage["num_chs"]: keep(n, c, output))
                hooks.enter_context(module.register_forward_hook(hook))
        features = backbone.forward_features(image)
    return [*(stages[number] for number in sorted(stages)), layout.tokens_of(features)]


def in_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that does nothing while other threads use the same module."""
    thread = threading.get_ident()
    return lambda *given: hook(*given) if threading.get_ident() == thread else None


def _submodule(backbone: nn.Module, name: str) -> nn.Module | None:
    try:
        return backbone.get_submodule(name) if name else None
    except AttributeError:
        return None


def _map_by_timm(name: str, backbone: Any, image_size: Size) -> Tensor:
    """The last map as `forward_intermediates` of timm gives it. Raises ValueError."""

    def as_map(image: Tensor) -> Tensor:
        try:
            (last,) = backbone.forward_intermediates(image, indices=1, norm=True, intermediates_only=True)
        except AssertionError:  # of models that have no norm
            (last,) = backbone.forward_intermediates(image, indices=1, intermediates_only=True)
        return last if isinstance(last, Tensor) else torch.empty(0)

    return _run("swin", name, backbone, image_size, as_map)  # type: ignore[no-any-return]


def _layout_of_tokens(name: str, tokens: Float[Tensor, "1 n c"], cells: Tensor) -> Layout:
    """Where the cells of a map are among tokens. Raises ValueError if they are not.

    Some models order their tokens otherwise than row by row, or let the cells be worked on no more at their end.
    """
    if cells.ndim == 4:
        grid = (cells.shape[2], cells.shape[3])
        layout = Layout("tokens", tokens.shape[1] - grid[0] * grid[1], grid)
        if layout.prefix_tokens >= 0 and _agree(layout.map_of(tokens), cells):
            return layout
    raise ValueError(
        f"swin: {name} gives {_described(tokens)} of one picture, which are not the cells of a grid: choose another"
    )


def _cut(branch: str, name: str, backbone: Any, layout: Layout, image_size: Size, reduction: int | None) -> Layout:
    """Remove the stages behind the last one whose cells have sides of `reduction` px, and return the new layout.

    Raises ValueError if there is no such stage, or if what is left does not give its map.
    """
    if reduction is None:
        return layout
    stages = [stage["reduction"] for stage in getattr(backbone, "feature_info", ())]
    if reduction not in stages:
        raise ValueError(
            f"{branch}_reduction: {name} has no map whose cells are {reduction} px wide: choose one of "
            f"{', '.join(map(str, sorted({*stages}))) or 'none, which it does not say'}"
        )
    number = len(stages) - 1 - stages[::-1].index(reduction)
    if number == len(stages) - 1:
        return layout

    def early(image: Tensor) -> Any:
        return backbone.forward_intermediates(image, indices=[number], intermediates_only=True)[0]

    expected = _run(branch, name, backbone, image_size, early)
    backbone.prune_intermediate_layers([number], prune_norm=True, prune_head=True)
    own = _run(branch, name, backbone, image_size, backbone.forward_features)
    if isinstance(own, Tensor) and own.ndim == 3 and layout.order == "tokens":
        layout = _layout_of_tokens(name, own, expected)
    own = layout.map_of(own) if layout.holds(own) else own
    if not isinstance(own, Tensor) or not _agree(own, expected):
        raise ValueError(
            f"{branch}_reduction: {name} gives another map when it is cut at {reduction} px: choose another, or none"
        )
    return layout


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether two maps are the same but for rounding; of maps without values, whether their shapes are."""
    return one.shape == other.shape and (one.is_meta or torch.allclose(one, other, rtol=1e-3, atol=1e-4))


def _described(output: Any) -> str:
    return f"an output {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"


def normalization(backbone: Any) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each colour in [0, 1], by which pictures are normalised for the backbone."""
    config = backbone.pretrained_cfg
    return tuple(config["mean"]), tuple(config["std"])


def _create(branch: str, name: str, options: Mapping[str, Any], **given: Any) -> Any:
    # timm also accepts addresses ("hf-hub:…"), whose configuration it would download.
    if not timm.is_model(name):
        known = _similar(name, timm.list_models())
        hint = f"did you mean {' or '.join(known)}?" if known else "choose one of timm.list_models()"
        raise ValueError(f"{branch}: timm defines no model {name!r}: {hint}")
    for option in options:
        if option in (*_SET_BY_THE_MODEL, *given):
            raise ValueError(f"{branch}_options: {option} is what the fusion model sets itself: remove it")
        if option.startswith(_OTHER_WEIGHTS):
            raise ValueError(f"{branch}_options: {option} would load weights from elsewhere: remove it")
    try:
        backbone = timm.create_model(name, pretrained=False, num_classes=0, **given, **options)
    except _OPTION_ERRORS as error:
        described = ", ".join(f"{key}={value}" for key, value in {**given, **options}.items())
        raise ValueError(
            f"{branch}: timm cannot build {name} with {described or 'its own options'} ({_first_line(error)})"
        ) from error
    config = getattr(backbone, "pretrained_cfg", None) or {}
    if any(len(config.get(key) or ()) != 3 for key in ("mean", "std")):
        raise ValueError(f"{branch}: timm does not say how pictures of three colours are normalised for {name}")
    return backbone


def _similar(name: str, names: Sequence[str]) -> list[str]:
    """Up to three names that hold the name, that are nearly the same, or that share a word with it."""
    name = name.lower().replace("-", "_")
    ratios = {other: difflib.SequenceMatcher(None, name, other).ratio() for other in names}
    near = (
        [other for other in names if name in other]
        or [other for other in names if ratios[other] > 0.7]
        or [other for other in names if {*name.split("_")} & {*other.split("_")}]
    )
    return sorted(near, key=lambda other: (-ratios[other], other))[:3]


def _check_patches(name: str, patch_size: Any, image_size: tuple[int, int]) -> None:
    """Refuse a size of which the patches would leave out the last rows or columns."""
    patch = tuple(patch_size) if isinstance(patch_size, list | tuple) else (patch_size, patch_size)
    if len(patch) != 2 or not all(isinstance(side, int) and side > 0 for side in patch):
        raise ValueError(f"swin_options: patch_size is {patch_size!r}: choose a number of px, 1 or more")
    if any(side % part for side, part in zip(image_size, patch, strict=True)):
        sides = (max(part, round(side / part) * part) for side, part in zip(image_size, patch, strict=True))
        raise ValueError(
            f"image_size: {image_size[0]} × {image_size[1]} px is no multiple of the patches of {name}, "
            f"{patch[0]} × {patch[1]} px: choose {' × '.join(map(str, sides))}"
        )


@torch.no_grad()
def _run(
    branch: str, name: str, backbone: nn.Module, image_size: tuple[int, int], forward: Callable[[Tensor], Any]
) -> Any:
    """What `forward` gives of one picture in eval mode. No random numbers are drawn."""
    training = backbone.training
    height, width = image_size
    image = torch.linspace(-1, 1, 3 * height * width).reshape(1, 3, height, width)
    try:
        return backbone.eval() and forward(image)
    except _OPTION_ERRORS as error:
        raise ValueError(
            f"{branch}: {name} cannot take RGB pictures of {height} × {width} px ({_first_line(error)}): "
            "choose another image_size, or other options"
        ) from error
    finally:
        backbone.train(training)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
