"""Initial weights of the branches, from a local file or from timm's download.

Both are loaded by timm, which adapts a transformer's position tables to the picture size. Both must provide every
tensor of the backbone. What a local file has beside them, such as a classifier, is left out, and said.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError

import huggingface_hub as hub
import safetensors
import timm
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from torch import Tensor, nn

from app.models.cnnswin import CNNViTFusion
from training.data.samples import Sample
from training.loop.backbone_weights import fill_backbone, in_one_line, load_by_timm, timm_options
from training.loop.checkpoint_files import WeightsError, find_weights, read_weights
from training.loop.start_bundle import load_start_bundle
from training.recipe.config import STARTS, Recipe
from training.runs.torch_files import not_finite_tensor

# The base class is the error of the HTTP library that the installed huggingface_hub uses.
_HTTP_ERROR = cast(type[Exception], HfHubHTTPError.__bases__[0])
_DOWNLOAD_ERRORS = (_HTTP_ERROR, HfHubHTTPError, EntryNotFoundError, URLError, ConnectionError)
_METADATA_TIMEOUT_S = 10

__all__ = ["WeightsError", "load_backbone", "load_start_weights"]


def load_start_weights(
    model: CNNViTFusion, recipe: Recipe, classes: tuple[str, ...], samples: Sequence[Sample]
) -> list[str]:
    """Load the initial weights that `recipe.start` names into a model of these classes. All others stay as they are.

    `samples` are all pictures of the run, for what must not have been learned from before.

    Returns sentences: what was loaded, and what was left out. Raises WeightsError, and what reading a bundle or a run
    raises.
    """
    if recipe.start.bundle is not None:
        return load_start_bundle(model, recipe, classes, recipe.start.bundle, samples)
    sentences = []
    for branch in STARTS:
        start, backbone = getattr(recipe.start, branch), getattr(model, branch)
        if not start.pretrained and start.weights is None:
            continue
        if backbone is None:
            fusion = recipe.model.fusion
            raise WeightsError(
                f"start.{branch} names weights, but fusion {fusion} has no {branch} branch: remove the key"
            )
        name, options = getattr(recipe.model, branch), timm_options(recipe.model, branch)
        if start.weights is not None:
            loaded = load_backbone(backbone, name, start.weights, options)
        else:
            loaded = _download(backbone, name, branch, options)
        sentences.append(f"start.{branch}: {loaded}")
    return sentences


def load_backbone(backbone: nn.Module, timm_name: str, path: Path, options: Mapping[str, Any] | None = None) -> str:
    """Load a local file of weights into a backbone, without their classifier.

    The file is a safetensors file or one of `torch.save`, with the tensors of the timm model `timm_name` with the
    constructor arguments `options`. They may be inside another entry, under a prefix such as `module.`, and with a
    classifier for any number of classes, or without one. See `training.loop.checkpoint_files`.

    Returns what was loaded and what was left out. Raises WeightsError if the file cannot be read or does not fit.
    """
    options = options or {}
    timm_model, model = timm.create_model(timm_name, pretrained=False, **options), _with_options(timm_name, options)
    whole, wanted = timm_model.state_dict(), backbone.state_dict()
    headless = timm.create_model(timm_name, pretrained=False, num_classes=0, **options).state_dict()
    headless = {name: tensor for name, tensor in whole.items() if name in headless or name in wanted}
    found = find_weights(read_weights(path), whole, headless, wanted, partial(_convert, timm_model), path.name, model)
    try:  # timm's own random classifier stands in for the file's, whatever that has
        fill_backbone(backbone, timm_name, options, whole | found.tensors)
    except RuntimeError as error:
        raise WeightsError(f"{path.name} does not fit {model}: {in_one_line(error)}") from error
    return found.sentence


def _convert(timm_model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the tensors of a model's older formats to its own, as timm does where it knows one."""
    convert = getattr(sys.modules[type(timm_model).__module__], "checkpoint_filter_fn", None)
    try:
        return {} if convert is None else convert(dict(tensors), timm_model)
    except (RuntimeError, LookupError, TypeError, AttributeError, ValueError):  # of tensors in no format of the model's
        return {}


def _download(backbone: nn.Module, timm_name: str, branch: str, options: Mapping[str, Any]) -> str:
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
        load_by_timm(backbone, timm_name, options)
    except (*_DOWNLOAD_ERRORS, safetensors.SafetensorError) as error:
        address = f"{file} from https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"the pretrained weights of {timm_name} could not be downloaded ({reason}): fetch {address} where there is "
            f"internet, and give start.{branch}.weights: PATH instead of start.{branch}.pretrained: true"
        ) from error
    except RuntimeError as error:
        raise WeightsError(
            f"timm's weights of {timm_name} do not fit {_with_options(timm_name, options)}: {in_one_line(error)}"
        ) from error
    if (broken := not_finite_tensor(backbone.state_dict())) is not None:
        raise WeightsError(
            f"timm's weights of {timm_name} have values that are not finite in {broken}: empty the cache of "
            "huggingface_hub, from which they are read, or choose other weights"
        )
    return f"timm's pretrained weights, {config.hf_hub_id or config.url}; left out: the classifier"


def _check_hub(repository: str, file: str) -> None:
    """Request the metadata of a file that is not cached, so that being offline shows at once.

    Without this, timm would retry for most of a minute. Raises the errors of huggingface_hub.
    """
    if not isinstance(hub.try_to_load_from_cache(repository, file), str):
        with suppress(EntryNotFoundError):  # the hub can be reached, and timm knows other file names
            hub.get_hf_file_metadata(hub.hf_hub_url(repository, file), timeout=_METADATA_TIMEOUT_S)


def _with_options(timm_name: str, options: Mapping[str, Any]) -> str:
    return f"{timm_name} with {', '.join(f'{key}={value}' for key, value in options.items()) or 'its own options'}"
