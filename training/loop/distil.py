"""Distillation: in a stage of the recipe, the transformer or the whole model learns from a teacher, labels or not.

The teacher sees the view of the CNN and the student that of the transformer, mixed alike, since both show the same
places (Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and consistent").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import FeatureMaps
from app.shapes import Float
from training.data.samples import Sample
from training.loop.trained import TrainedModel, check_stretch, check_unseen, read_trained
from training.recipe.config import Distil, Recipe, RecipeError

_BETA = 2.0  # of the smooth L1 loss, as in Wei et al. 2022


class Distiller(nn.Module):
    """The loss of a stage's distillation. Its one parameter tensor, if any, projects the student's cells.

    With `what: map`, the cells of the transformer's map, projected to the teacher's channels, shall equal those of the
    teacher's map (Romero et al. 2015, "FitNets"), each of which is normalised over its channels and compared by a
    smooth L1 loss (Wei et al. 2022, "Contrastive Learning Rivals Masked Image Modeling in Fine-tuning via Feature
    Distillation"). With `what: logits`, the loss is the Kullback–Leibler divergence from the teacher's probabilities.
    """

    def __init__(self, config: Distil, model: CNNViTFusion, teacher: TrainedModel | None) -> None:
        super().__init__()
        self.config, self.sha256 = config, None if teacher is None else teacher.sha256
        self._teacher = [] if teacher is None else [teacher.model]  # in a list, so that it is no part of the state
        self.projection: nn.Linear | None = None
        student = model.map_shapes.transformer
        if config.what == "map" and student is not None:
            shapes = model.map_shapes if teacher is None else teacher.model.map_shapes
            self.branch = next(iter(shapes))  # the CNN's, if there is one
            self.projection = nn.Linear(student[0], shapes[self.branch][0])

    def forward(
        self, image: Float[Tensor, "b 3 h w"], maps: FeatureMaps[Tensor], logits: Float[Tensor, "b k"] | None
    ) -> Float[Tensor, ""]:
        """Return the loss summed over the pictures, before its weight.

        `image` is the view of the CNN, and `maps` and `logits` are the model's own.
        """
        if self.projection is None:
            assert logits is not None
            with torch.no_grad():
                wanted = self._teacher[0](image).log_softmax(dim=1)
            return functional.kl_div(
                logits.log_softmax(dim=1), wanted.to(logits.dtype), reduction="sum", log_target=True
            )
        with torch.no_grad():
            target = maps["cnn"].detach() if not self._teacher else self._teacher[0].encode(image)[self.branch]
            cells = target.permute(0, 2, 3, 1)
            cells = functional.layer_norm(cells.to(image.dtype), cells.shape[-1:])
        of_transformer = maps.transformer
        assert of_transformer is not None
        student = self.projection(of_transformer.permute(0, 2, 3, 1)).to(image.dtype)
        if student.shape[1:3] != cells.shape[1:3]:
            resized = functional.interpolate(student.permute(0, 3, 1, 2), cells.shape[1:3], mode="bilinear")
            student = resized.permute(0, 2, 3, 1)
        errors = functional.smooth_l1_loss(student, cells, reduction="none", beta=_BETA)
        return errors.mean(dim=(1, 2, 3)).sum()


def check_distillation(recipe: Recipe, model: CNNViTFusion) -> None:
    """Check that a model has what the recipe's stages distil. Raises RecipeError."""
    for number, stage in enumerate(recipe.stages):
        if stage.distil is not None and stage.distil.what == "map" and model.swin is None:
            raise RecipeError(
                f"stages.{number}.distil: fusion {model.fusion} has no transformer that could learn from a map"
            )
        if stage.distil is not None and stage.distil.teacher == "cnn" and model.cnn is None:
            raise RecipeError(
                f"stages.{number}.distil.from: fusion {model.fusion} has no CNN: give the folder of a bundle or a run"
            )


def distillers_of(
    recipe: Recipe, model: CNNViTFusion, classes: Sequence[str], samples: Sequence[Sample]
) -> tuple[nn.ModuleDict, list[str]]:
    """Return the distillers of the recipe's stages by their names, on the model's device, and remarks on teachers.

    `samples` are all pictures of the run: no teacher may have learned from those that are not for training. Raises
    RecipeError and WeightsError if model or teacher lack what is distilled, and what reading a bundle or a run raises.
    """
    check_distillation(recipe, model)
    device = next(model.parameters()).device
    distillers, remarks = nn.ModuleDict(), list[str]()
    for number, stage in enumerate(recipe.stages):
        if stage.distil is None:
            continue
        key, teacher = f"stages.{number}.distil.from", None
        if isinstance(stage.distil.teacher, Path):
            teacher = read_trained(stage.distil.teacher, key)
            _check_teacher(teacher, stage.distil, recipe, classes, key)
            if (remark := check_unseen(teacher, samples, key)) is not None:
                remarks.append(remark)
            teacher.model.to(device)
        distillers[f"stage_{number}"] = Distiller(stage.distil, model, teacher)
    return distillers.to(device), remarks


def _check_teacher(teacher: TrainedModel, distil: Distil, recipe: Recipe, classes: Sequence[str], key: str) -> None:
    check_stretch(teacher, recipe.stretch, key)
    if distil.what == "logits" and teacher.classes != tuple(classes):
        raise RecipeError(
            f"{key}: the teacher's classes are {', '.join(teacher.classes)}, but those of the data are "
            f"{', '.join(classes)}: distil its map, or take another teacher"
        )
    if teacher.model.image_size != recipe.model.image_size:
        raise RecipeError(
            f"{key}: the teacher sees {teacher.model.image_size} px, but the model {recipe.model.image_size} px: take "
            "a teacher of the same picture size"
        )


def distiller_of(distillers: nn.ModuleDict, recipe: Recipe, epoch: int) -> nn.Module | None:
    """Return the distiller of an epoch's stage, if it has one."""
    name = f"stage_{recipe.stages.index(recipe.stage_at(epoch))}"
    return dict(distillers.items()).get(name)


def teacher_digests(distillers: nn.ModuleDict) -> dict[str, str]:
    """The digests of the weights that teachers were read with, by the names of the distillers."""
    return {name: one.sha256 for name, one in distillers.items() if isinstance(one, Distiller) and one.sha256}
