"""Stages of training: which parameters train, for progressive unfreezing of the CNN.

A frozen parameter has `requires_grad` False and no gradient. A zero gradient would not do, because AdamW would still
apply weight decay. A frozen branch records no autograd graph, and its modules are in eval mode, so that running
statistics stay as they are.

"Block" and "stage" of a CNN are timm's grouping of its layers. The blocks of an EfficientNet are its MBConv blocks,
those of a ResNet its residual blocks. What is behind the last one, such as a norm, belongs to it.
"""

from __future__ import annotations

from torch import nn

from app.models.cnnswin import CNNViTFusion
from training.loop.layers import layers_of
from training.recipe.config import LastUnits, RecipeError, Stage

BatchNorm = nn.modules.batchnorm._BatchNorm


def cnn_blocks(cnn: nn.Module, unit: str) -> list[list[str]]:
    """Return the parameter names of each block (or stage, by `unit`) of a timm CNN, in order, without its stem.

    Raises RecipeError if timm does not say what they are.
    """
    return layers_of(cnn, unit == "stage", "use cnn: all, or frozen")[1:]


def trainable_names(model: CNNViTFusion, stage: Stage) -> set[str]:
    """Return the names of the parameters that train in `stage`.

    Raises RecipeError if the stage names more blocks than the CNN has, or if timm does not say what they are.
    """
    names = {f"head.{name}" for name, _ in model.head.named_parameters()} if stage.head == "all" else set()
    if model.swin is not None and stage.swin == "all":
        names |= {f"swin.{name}" for name, _ in model.swin.named_parameters()}
    if model.cnn is not None and stage.cnn != "frozen":
        names |= {f"cnn.{name}" for name in _trainable_cnn_names(model.cnn, stage)}
    return names


def apply_stage(model: CNNViTFusion, stage: Stage, batch_norm: str) -> None:
    """Make exactly the stage's parameters trainable, and set the mode of every module.

    A module whose parameters are all frozen is in eval mode, with everything inside it, such as drop-path. If
    `batch_norm` is `frozen`, every batch norm is in eval mode. If it is `sync`, batch norms in the blocks that train
    use the batch's statistics. All other modules are in train mode.
    """
    names = trainable_names(model, stage)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
        if frozen or (isinstance(module, BatchNorm) and batch_norm == "frozen"):
            module.eval()


def _trainable_cnn_names(cnn: nn.Module, stage: Stage) -> list[str]:
    if not isinstance(stage.cnn, LastUnits):
        return [name for name, _ in cnn.named_parameters()]
    blocks = cnn_blocks(cnn, stage.cnn.unit)
    if stage.cnn.last > len(blocks):
        raise RecipeError(
            f"stage {stage.name}: the last {stage.cnn.last} {stage.cnn.unit}s of the CNN should train, but it has "
            f"{len(blocks)}: choose fewer, or cnn: all"
        )
    return [name for block in blocks[-stage.cnn.last :] for name in block]
