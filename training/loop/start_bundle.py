"""Initial weights from a bundle, or from a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor

from app.models.cnnswin import CNNViTFusion
from training.data.samples import Sample
from training.loop.backbone_weights import fill_backbone, in_one_line, timm_options
from training.loop.checkpoint_files import WeightsError, fits
from training.loop.trained import TrainedModel, check_unseen, read_trained
from training.recipe.config import STARTS, ModelConfig, Recipe


def load_start_bundle(
    model: CNNViTFusion, recipe: Recipe, classes: tuple[str, ...], path: Path, samples: Sequence[Sample]
) -> list[str]:
    """Load the weights of the bundle or the finished run in the folder `path` into a model of these classes.

    With the same classes and a head of the same sizes the model is filled whole, unless the recipe says that the head
    shall be new; otherwise its head stays new. Returns sentences: which of both, and a warning if it is not known what
    the model learned from. Raises WeightsError if a backbone is not that of the recipe, if it learned from a picture of
    `samples` that is not for training, and what reading raises.
    """
    trained = read_trained(path, "start.bundle")
    warning = check_unseen(trained, samples, "start.bundle")
    further = [] if warning is None else [warning]
    theirs = trained.model.state_dict()
    _fill_backbones(model, recipe.model, theirs, path)
    _check_same_answers(model, recipe.model, trained, path)
    normalisation = [name for name in model.state_dict() if "." not in name]  # in float16, where a bundle has them
    model.load_state_dict({name: theirs[name] for name in normalisation}, strict=False)
    if recipe.start.head == "new":
        return [f"start.bundle: the backbones of {path}; the head is new, as start.head says", *further]
    head, their_head = model.head.state_dict(), trained.model.head.state_dict()
    same_shapes = {name: value.shape for name, value in head.items()} == {n: v.shape for n, v in their_head.items()}
    same_head = same_shapes and trained.config.heads == recipe.model.heads
    if same_head and trained.classes == classes:
        model.head.load_state_dict(their_head)
        return [f"start.bundle: the whole model of {path}", *further]
    different = f"the classes there are {', '.join(trained.classes)}"
    why = "the recipe's head is another one" if trained.classes == classes else different
    return [f"start.bundle: the backbones of {path}; the head is new, since {why}", *further]


def _fill_backbones(model: CNNViTFusion, config: ModelConfig, theirs: dict[str, Tensor], path: Path) -> None:
    """Fill the branches that the model has. Raises WeightsError if a tensor is missing or does not fit."""
    for branch in STARTS:
        backbone = getattr(model, branch)
        if backbone is None:
            continue
        tensors = {name.removeprefix(f"{branch}."): t for name, t in theirs.items() if name.startswith(f"{branch}.")}
        advice = f"give it the same model.{branch}, with the same options and cut"
        for key, own in backbone.state_dict().items():
            if key not in tensors or not fits(key, tensors[key], own):
                raise WeightsError(
                    f"start.bundle: {path} has no {branch}.{key} {list(own.shape)}, so its backbones are not those "
                    f"of the recipe: {advice}"
                )
        name, options = getattr(config, branch), timm_options(config, branch)
        whole = timm.create_model(name, pretrained=False, **options).state_dict()  # with a classifier, and all stages
        try:
            fill_backbone(backbone, name, options, whole | tensors)
        except RuntimeError as error:
            reason = in_one_line(error)
            raise WeightsError(f"start.bundle: {branch} of {path} does not fit ({reason}): {advice}") from error


def _check_same_answers(model: CNNViTFusion, config: ModelConfig, trained: TrainedModel, path: Path) -> None:
    """Raises WeightsError if the backbones of the other model make other maps of the same weights.

    Names and options may differ where that changes nothing in eval mode, such as the rate of drop-path.
    """
    branches = [branch for branch in STARTS if getattr(model, branch) is not None]
    keys = [key for branch in branches for key in (branch, f"{branch}_options", f"{branch}_reduction")]
    if not (other := [key for key in keys if getattr(trained.config, key) != getattr(config, key)]):
        return
    theirs = config.model_copy(update={key: getattr(trained.config, key) for key in other})
    try:
        built = CNNViTFusion(model.num_classes, **theirs.model_dump())
        _fill_backbones(built, theirs, model.state_dict(), path)
    except ValueError:
        alike = False
    else:
        alike = _maps_agree(model, built)
    if not alike:
        wanted = ", ".join(f"model.{key}: {getattr(trained.config, key)}" for key in other)
        raise WeightsError(f"start.bundle: {path} has other backbones than the recipe: give it {wanted}")


@torch.no_grad()
def _maps_agree(model: CNNViTFusion, other: CNNViTFusion) -> bool:
    training = model.training
    picture = torch.rand(1, 3, *model.image_size, generator=torch.Generator().manual_seed(0))
    maps, others = (one.eval().encode(picture) for one in (model, other))
    model.train(training)
    return maps.keys() == others.keys() and all(
        maps[branch].shape == value.shape and torch.allclose(maps[branch], value, rtol=1e-3, atol=1e-4)
        for branch, value in others.items()
    )
