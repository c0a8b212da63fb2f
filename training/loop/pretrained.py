"""Initial weights of the branches, from a local file or from timm's download.

Both are loaded by timm, which drops the model's classifier and adapts a Swin's position tables to the picture size.
Both must provide every tensor of the backbone.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError

import huggingface_hub as hub
import safetensors.torch
import timm
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from torch import Tensor, nn

from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import BRANCHES, Branch
from training.errors import TrainingProblem
from training.recipe.config import Recipe
from training.runs.torch_files import load_torch_file

# The errors that reading damaged files has raised in tests.
_READ_ERRORS = (
    *(safetensors.SafetensorError, pickle.UnpicklingError, struct.error, EOFError, OSError, RuntimeError),
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError),
)
# The base class is the error of the HTTP library that the installed huggingface_hub uses.
_HTTP_ERROR = cast(type[Exception], HfHubHTTPError.__bases__[0])
_DOWNLOAD_ERRORS = (_HTTP_ERROR, HfHubHTTPError, EntryNotFoundError, URLError, ConnectionError)
_METADATA_TIMEOUT_S = 10


class WeightsError(TrainingProblem, ValueError):
    """Weights that cannot be read or downloaded, or that do not fit the backbone. The message says why."""


def load_start_weights(model: CNNViTFusion, recipe: Recipe) -> None:
    """Load the initial weights that `recipe.start` names for each branch. Other branches keep their weights.

    Raises WeightsError.
    """
    for branch in BRANCHES:
        start, backbone = getattr(recipe.start, branch), getattr(model, branch)
        if not start.pretrained and start.weights is None:
            continue
        if backbone is None:
            fusion = recipe.model.fusion
            raise WeightsError(
                f"start.{branch} names weights, but fusion {fusion} has no {branch} branch: remove the key"
            )
        name, options = getattr(recipe.model, branch), _options(recipe, branch)
        if start.weights is not None:
            load_backbone(backbone, name, start.weights, options)
        else:
            _download(backbone, name, branch, options)


def load_backbone(backbone: nn.Module, timm_name: str, path: Path, options: Mapping[str, Any] | None = None) -> None:
    """Load a local file of weights into a backbone, without their classifier.

    The file is a safetensors file or a state dict of the timm model `timm_name` with the constructor arguments
    `options`. A file with other tensor names is accepted if its tensors have timm's order and shapes, since checkpoints
    converted from the same source often differ in names only.

    Raises WeightsError if the file cannot be read or does not fit.
    """
    tensors, options = _read_tensors(path), options or {}
    expected = timm.create_model(timm_name, pretrained=False, **options).state_dict()
    if expected.keys() != tensors.keys():
        shapes = [tensor.shape for tensor in tensors.values()]
        if shapes != [tensor.shape for tensor in expected.values()]:
            raise WeightsError(f"{path.name} does not hold the weights of {timm_name}: names and shapes differ")
        tensors = dict(zip(expected, tensors.values(), strict=True))
    try:
        _load(backbone, timm_name, options, {"state_dict": tensors})
    except RuntimeError as error:
        raise WeightsError(f"{path.name} does not fit {_with_options(timm_name, options)}: {error}") from error


def _download(backbone: nn.Module, timm_name: str, branch: Branch, options: Mapping[str, Any]) -> None:
    config = timm.models.get_pretrained_cfg(timm_name)
    if config is None or not config.has_weights:
        raise WeightsError(
            f"timm has no pretrained weights for {timm_name}: remove start.{branch}.pretrained, "
            f"give start.{branch}.weights: PATH, or choose another model.{branch}"
        )
    file = config.hf_hub_filename or "model.safetensors"
    try:
        if config.hf_hub_id:
            _check_hub(config.hf_hub_id, file)
        _load(backbone, timm_name, options)
    except (*_DOWNLOAD_ERRORS, safetensors.SafetensorError) as error:
        address = f"{file} from https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"the pretrained weights of {timm_name} could not be downloaded ({reason}): fetch {address} where there is "
            f"internet, and give start.{branch}.weights: PATH instead of start.{branch}.pretrained: true"
        ) from error
    except RuntimeError as error:
        raise WeightsError(
            f"timm's weights of {timm_name} do not fit {_with_options(timm_name, options)}: {error}"
        ) from error


def _check_hub(repository: str, file: str) -> None:
    """Request the metadata of a file that is not cached, so that being offline shows at once.

    Without this, timm would retry for most of a minute. Raises the errors of huggingface_hub.
    """
    if not isinstance(hub.try_to_load_from_cache(repository, file), str):
        with suppress(EntryNotFoundError):  # the hub can be reached, and timm knows other file names
            hub.get_hf_file_metadata(hub.hf_hub_url(repository, file), timeout=_METADATA_TIMEOUT_S)


def _load(
    backbone: nn.Module, timm_name: str, options: Mapping[str, Any], source: dict[str, Any] | None = None
) -> None:
    """Copy timm's pretrained weights into the backbone.

    They are loaded into a whole model with a classifier first: for a model without one, timm would accept a file in
    which weights are missing.
    """
    timm_state = timm.create_model(timm_name, pretrained=True, pretrained_cfg_overlay=source, **options).state_dict()
    backbone_names = backbone.state_dict().keys()
    backbone.load_state_dict(
        {name: tensor for name, tensor in timm_state.items() if name in backbone_names}, strict=True
    )


def _options(recipe: Recipe, branch: Branch) -> dict[str, Any]:
    """Return the arguments that `CNNViTFusion` passes to timm for the branch."""
    if branch == "cnn":
        return recipe.model.cnn_options
    return {"img_size": recipe.model.image_size, **recipe.model.swin_options}


def _with_options(timm_name: str, options: Mapping[str, Any]) -> str:
    return f"{timm_name} with {', '.join(f'{key}={value}' for key, value in options.items()) or 'its own options'}"


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file's tensors. Other pickled objects are refused, since loading them could run code."""
    if not path.is_file():
        raise WeightsError(f"no weights at {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with path.open("rb") as file:
            content = load_torch_file(file)
    except _READ_ERRORS as error:
        # Torch's own message is left out, because it explains how to load an unsafe file anyway.
        raise WeightsError(
            f"{path.name} is damaged, compressed, or contains more than tensors: "
            "give a safetensors file or a bare state dict"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path.name} contains more than named tensors: give the state dict alone")
    return content
