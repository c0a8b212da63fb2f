"""What trains in a stage: progressive unfreezing of the CNN, without replacing a single parameter.

A frozen parameter has `requires_grad` False and no gradient at all: AdamW decays one whose gradient is merely zero.
A frozen branch records no graph, and its modules are in eval mode, so that no running statistic drifts.

"Block" and "stage" are timm's own grouping of a network's layers. For an EfficientNet the blocks are its MBConv
blocks, the last one with the head convolution and norm behind it; for a ResNet its residual blocks.
"""

from __future__ import annotations

from timm.models import group_parameters
from torch import nn

from app.models.cnnswin import CNNViTFusion
from training.recipe.config import LastUnits, RecipeError, Stage

BatchNorm = nn.modules.batchnorm._BatchNorm


def cnn_blocks(cnn: nn.Module, unit: str) -> list[list[str]]:
    """The parameter names of each block (or stage) of a timm CNN behind its stem, first to last."""
    matcher = cnn.group_matcher(coarse=unit == "stage")  # type: ignore[operator]
    layers: dict[int, list[str]] = group_parameters(cnn, matcher)
    return [layers[layer] for layer in sorted(layers)][1:]


def trainable_names(model: CNNViTFusion, stage: Stage) -> set[str]:
    """Names of the parameters that train in `stage`.

    Raises RecipeError if the CNN has fewer blocks than the stage names.
    """
    names = {f"head.{name}" for name, _ in model.head.named_parameters()}
    if model.swin is not None and stage.swin == "all":
        names |= {f"swin.{name}" for name, _ in model.swin.named_parameters()}
    if model.cnn is not None and stage.cnn != "frozen":
        names |= {f"cnn.{name}" for name in _trainable_cnn_names(model.cnn, stage)}
    return names


def apply_stage(model: CNNViTFusion, stage: Stage, batch_norm: str) -> None:
    """Make exactly the stage's parameters trainable, and put every module into train or eval mode.

    Eval mode: modules all of whose parameters are frozen (with what is inside them, such as drop-path), and, where
    `batch_norm` is frozen, every batch norm; where it is `sync`, the batch norms of the blocks that train use the
    batch's statistics.
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
            f"stage {stage.name}: the last {stage.cnn.last} {stage.cnn.unit}s of the CNN are to train, but it has "
            f"{len(blocks)}: take fewer, or cnn: all"
        )
    return [name for block in blocks[-stage.cnn.last :] for name in block]
