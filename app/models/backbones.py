"""The backbones of the branches: models of timm that have what `CNNViTFusion` needs of them.

A name or an option that does not lead to such a backbone is a ValueError, whose message says what is missing. What is
checked is what the fusion model uses, not the family of the model: a map `[B, C, h, w]` of a CNN, stages of blocks of a
Swin.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from app.shapes import Float

# timm does not check its options, so a wrong one raises whatever the code that uses it raises.
_OPTION_ERRORS = (
    *(ValueError, TypeError, RuntimeError, AssertionError, LookupError, AttributeError, ArithmeticError),
    *(MemoryError, ImportError),
)
_SET_BY_THE_MODEL = ("num_classes", "in_chans", "features_only")
_OTHER_WEIGHTS = ("pretrained", "checkpoint", "cache_dir")  # options that begin so load weights from elsewhere


def cnn_backbone(name: str, image_size: tuple[int, int], options: Mapping[str, Any]) -> Any:
    """Build the timm model `name` without a classifier, with random weights.

    `image_size` is (height, width) in px. Raises ValueError if `forward_features` of the model does not give a feature
    map `[B, C, h, w]` of such pictures.
    """
    backbone = _create("cnn", name, options)
    if not callable(getattr(backbone, "forward_features", None)):
        raise ValueError(f"cnn: {name} computes no feature map (it has no forward_features): choose another CNN")
    _check_map("cnn", name, backbone, _run("cnn", name, backbone, image_size, backbone.forward_features), channels=1)
    return backbone


def swin_backbone(name: str, image_size: tuple[int, int], options: Mapping[str, Any]) -> Any:
    """Build the timm Swin transformer `name` for pictures of `image_size`, with random weights.

    Raises ValueError if the model does not consist of patches, stages of blocks with windows, and a norm, or if
    `image_size` is no multiple of its patches.
    """
    _check_patches(name, options.get("patch_size", 4), image_size)
    backbone = _create("swin", name, options, img_size=tuple(image_size))
    parts = (getattr(backbone, part, None) for part in ("patch_embed", "layers", "norm"))
    if not all(isinstance(part, nn.Module) for part in parts) or not all(map(_is_swin_stage, backbone.layers)):
        raise ValueError(
            f"swin: {name} is not built as a Swin transformer, of stages whose blocks have windows: "
            f"choose one of timm.list_models('swin*')"
        )
    _check_patches(name, getattr(backbone.patch_embed, "patch_size", 1), image_size)
    tokens, own = (
        _run("swin", name, backbone, image_size, forward)
        for forward in (lambda image: swin_stages(backbone, image)[-1], backbone.forward_features)
    )
    _check_map("swin", name, backbone, tokens, channels=3)
    if tokens.shape != own.shape or not (tokens.is_meta or torch.allclose(tokens, own, rtol=1e-3, atol=1e-4)):
        raise ValueError(f"swin: {name} computes more than its stages, which the fusion model would leave out")
    return backbone


def swin_stages(swin: Any, image: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b h w c"]]:
    """From normalised pictures to the tokens at the end of every stage, those of the last stage after the norm."""
    tokens, stages = swin.patch_embed(image), []
    for stage in swin.layers:
        tokens = stage(tokens)
        stages.append(tokens)
    stages[-1] = swin.norm(tokens)
    return stages


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
    """Up to three names that are nearly the same, the most similar first."""
    ratios = {other: difflib.SequenceMatcher(None, name, other).ratio() for other in names}
    return sorted((other for other in names if ratios[other] > 0.7), key=lambda other: (-ratios[other], other))[:3]


def _is_swin_stage(stage: Any) -> bool:
    blocks = getattr(stage, "blocks", None)
    return (
        isinstance(blocks, nn.Sequential | nn.ModuleList)
        and len(blocks) > 0
        and all(hasattr(block, "window_size") and hasattr(block, "input_resolution") for block in blocks)
    )


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


def _check_map(branch: str, name: str, backbone: Any, output: Any, channels: int) -> None:
    """Check that an output is a map of the backbone's features, which are its dimension `channels`."""
    expected = "[B, C, h, w]" if channels == 1 else "[B, h, w, C]"
    if not isinstance(output, Tensor):
        raise ValueError(
            f"{branch}: {name} gives a {type(output).__name__}, not a feature map {expected}: choose another"
        )
    shape = tuple(output.shape)
    if len(shape) != 4 or shape[channels] != backbone.num_features or 0 in shape:
        raise ValueError(
            f"{branch}: {name} gives an output {list(shape)} of one picture, not a feature map {expected} with "
            f"{backbone.num_features} channels: choose another"
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
