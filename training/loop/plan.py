"""A summary of a training run from its recipe alone: stages, learning rates, memory, and warnings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import weights_of
from training.export.graph_errors import UNCHECKED, GraphError, has_openvino
from training.loop.distil import check_distillation
from training.loop.optim import build_optimizer, warmup_cosine
from training.loop.stages import BatchNorm, apply_stage, trainable_names
from training.recipe.config import LastUnits, ModelConfig, Rates, Recipe, RecipeError, Stage
from training.runs.run import build_model

HIGHEST_RATE = 2e-3  # above it, AdamW often diverges on pretrained networks
LEVELS = " ▁▂▃▄▅▆▇█"
MIB = 2**20


def plan(recipe: Recipe, classes: int, pictures: int | None) -> str:
    """Describe the recipe's run as text.

    `pictures` is the number of training pictures; if it is None and the recipe has no `epoch_pictures`, the text does
    not count updates. Raises RecipeError if the model cannot be built, or could not be exported after its training.
    """
    pictures = recipe.epoch_pictures or pictures
    model = build_model(recipe, classes)
    check_distillation(recipe, model)
    without_graphs = check_graphs(recipe.model)
    total = sum(parameter.numel() for parameter in model.parameters())
    sections = [
        f"{recipe.name}: {recipe.model.fusion} of {_branches(model, recipe)}, {classes} classes, "
        f"{recipe.model.image_size[0]} × {recipe.model.image_size[1]} px, {total / 1e6:.2f} M parameters",
        "\n".join(_stage_lines(model, recipe, total)),
        "\n".join(_group_lines(model, recipe, total)),
        "\n".join(_schedule_lines(recipe, pictures)),
    ]
    if sentences := [*without_graphs, *recipe_warnings(model, recipe, classes, pictures)]:
        sections.append("\n".join(f"warning: {sentence}" for sentence in sentences))
    return "\n\n".join(sections)


def check_graphs(config: ModelConfig) -> tuple[str, ...]:
    """Check before the training that models of this configuration can be exported after it.

    Takes seconds for the first run or plan of a configuration. Draws no random numbers. Returns sentences on what a
    bundle of such a model will lack, or that nothing was checked, since OpenVINO is not installed. Raises RecipeError.
    """
    return _check_graphs(config.model_dump_json())


@lru_cache(maxsize=16)
def _check_graphs(config: str) -> tuple[str, ...]:
    """`check_graphs` of a configuration as JSON."""
    if not has_openvino():
        return (UNCHECKED,)
    from training.export.graphs import check_exportable  # imported here because OpenVINO may be missing

    sentences: list[str] = []
    with torch.random.fork_rng(devices=[]):
        model = CNNViTFusion(2, **ModelConfig.model_validate_json(config).model_dump())  # for any number of classes
    try:
        check_exportable(model, sentences.append)
    except GraphError as error:
        raise RecipeError(f"model: it could be trained, but not exported: {error}; choose another backbone") from error
    return tuple(sentences)


def recipe_warnings(model: CNNViTFusion, recipe: Recipe, classes: int, pictures: int | None) -> Iterator[str]:
    """Yield a sentence for each likely mistake in the recipe."""
    yield from _rate_warnings(recipe, pictures)
    yield from _branch_warnings(model, recipe)
    part = recipe.batch_size // recipe.accumulate
    mixes = recipe.augmentation.mixup_alpha > 0 or recipe.augmentation.cutmix_alpha > 0
    if mixes and classes * classes**-recipe.batch_size > 0.05:
        yield f"batches of {recipe.batch_size} often hold one class only, and MixUp has no effect then: use larger ones"
    if recipe.batch_norm == "sync" and part < 8:
        yield f"batch_norm: sync computes statistics of {part} pictures, which are noisy: consider frozen"
    if "swin" in model.map_shapes:
        for number, stage in enumerate(getattr(model.swin, "layers", ()), 1):
            height, width = stage.blocks[0].input_resolution
            rows, columns = stage.blocks[0].window_size
            if height % rows or width % columns:
                yield (
                    f"model.image_size: the Swin's grid at its stage {number}, {height} × {width}, is no multiple of "
                    f"its window, {rows} × {columns}: tokens will attend to padding"
                )


def activation_bytes(model: CNNViTFusion, stage: Stage, recipe: Recipe) -> int:
    """Return the fp32 bytes that one picture's forward pass saves for the backward pass in a stage, without weights."""
    apply_stage(model, stage, "frozen")
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved_bytes: dict[int, int] = {}

    def record_storage(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved_bytes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record_storage, lambda tensor: tensor):
        model(torch.zeros(1, 3, *recipe.model.image_size)).sum()
    return sum(saved_bytes.values())


def estimated_bytes(model: CNNViTFusion, recipe: Recipe) -> list[int]:
    """Return the memory of one process in each of the recipe's stages, in fp32 and without the kernels' buffers.

    It is that of all weights and their average, of the gradients of the parameters that train in the stage, of Adam's
    two moments of every parameter that has trained so far, and of what a part of the batch saves for its backward pass.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    part, trained_so_far, estimates = recipe.batch_size // recipe.accumulate, set[str](), list[int]()
    for stage in recipe.stages:
        names = trainable_names(model, stage)
        trained_so_far |= names
        numbers = 2 * sum(sizes.values()) + sum(map(sizes.__getitem__, names))
        numbers += 2 * sum(map(sizes.__getitem__, trained_so_far))
        estimates.append(4 * numbers + part * activation_bytes(model, stage, recipe))
    return estimates


def _branches(model: CNNViTFusion, recipe: Recipe) -> str:
    return " and ".join(getattr(recipe.model, weights_of(branch)) for branch in model.map_shapes)


def _stage_lines(model: CNNViTFusion, recipe: Recipe, total: int) -> Iterator[str]:
    width = max(len(_trained_parts(model, stage)) for stage in recipe.stages)
    yield f"stage         epochs  {'trains':<{width}}  parameters   share     memory"
    part = recipe.batch_size // recipe.accumulate
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    for stage, memory_bytes in zip(recipe.stages, estimated_bytes(model, recipe), strict=True):
        count = sum(sizes[name] for name in trainable_names(model, stage))
        yield (
            f"{stage.name:<12}  {stage.epochs:>6}  {_trained_parts(model, stage):<{width}}  {count:>10,}"
            f"  {count / total:>6.1%}  {memory_bytes / MIB:>5,.0f} MiB"
        )
    yield f"Memory is an estimate for one process and parts of {part} pictures in fp32, without the kernels' buffers."


def _trained_parts(model: CNNViTFusion, stage: Stage) -> str:
    parts = []
    if model.cnn is not None and stage.cnn != "frozen":
        last = stage.cnn
        parts.append(f"CNN (last {last.last} {last.unit}s)" if isinstance(last, LastUnits) else "CNN")
    if model.swin is not None and stage.swin == "all":
        parts.append("Swin" if "swin" in model.map_shapes else "transformer")
    if stage.head == "all":
        parts.append("attention and classifier" if model.fusion == "cross_attention" else "classifier")
    return ", ".join(parts)


def _group_lines(model: CNNViTFusion, recipe: Recipe, total: int) -> Iterator[str]:
    yield "group          peak rate  weight decay  tensors  parameters   share"
    for group in build_optimizer(model, recipe).param_groups:
        count = sum(parameter.numel() for parameter in group["params"])
        tables = not group["weight_decay"] and group["rate"] != "norm_and_bias"
        yield (
            f"{group['rate'] + (' tables' if tables else ''):<13}  {group['lr']:>9.1e}  {group['weight_decay']:>12g}"
            f"  {len(group['params']):>7}  {count:>10,}  {count / total:>6.1%}"
        )


def _schedule_lines(recipe: Recipe, pictures: int | None, columns: int = 60) -> Iterator[str]:
    points = columns * 20
    factors = [warmup_cosine(point, max(1, int(recipe.warmup_share * points)), points) for point in range(points)]
    means = [sum(factors[20 * column : 20 * (column + 1)]) / 20 for column in range(columns)]
    marks, end = "", 0
    for stage in recipe.stages:
        end += stage.epochs
        width = round(columns * end / recipe.epochs) - len(marks)
        marks += ("|" + stage.name)[:width].ljust(width)
    yield "learning rates over the run, as a share of their peak"
    yield "".join(LEVELS[round(mean * (len(LEVELS) - 1))] for mean in means)
    yield marks
    if pictures is None:
        yield f"{recipe.epochs} epochs; give --pictures N to see the number of updates"
    else:
        updates = pictures // recipe.batch_size
        warmup = int(recipe.warmup_share * updates * recipe.epochs)
        yield (
            f"{recipe.epochs} epochs of {updates} updates of {recipe.batch_size} pictures: {updates * recipe.epochs} "
            f"updates, {warmup} of them warm-up"
        )


def _rate_warnings(recipe: Recipe, pictures: int | None) -> Iterator[str]:
    for name in Rates.model_fields.keys() - {"swin_layer_decay"}:
        if (rate := getattr(recipe.rates, name)) > HIGHEST_RATE:
            yield f"rates.{name} is {rate:g}: above {HIGHEST_RATE:g}, AdamW often diverges"
    if pictures is None:
        return
    updates = pictures // recipe.batch_size * recipe.epochs
    if updates == 0:
        yield f"batch_size {recipe.batch_size} is more than the {pictures} pictures: no update would be made"
    elif int(recipe.warmup_share * updates) == 0 and recipe.warmup_share > 0:
        yield f"warmup_share {recipe.warmup_share:g} of {updates} updates is less than one: there is no warm-up"
    if updates and 1 / (1 - recipe.ema_decay) > updates / 3:
        yield (
            f"ema_decay {recipe.ema_decay:g} averages over about {1 / (1 - recipe.ema_decay):.0f} of the run's "
            f"{updates} updates, so the average never catches up: choose a smaller one"
        )


def _branch_warnings(model: CNNViTFusion, recipe: Recipe) -> Iterator[str]:
    if recipe.start.bundle is not None and not recipe.start.bundle.is_dir():
        yield f"start.bundle: there is no folder {recipe.start.bundle} on this machine"
    for number, stage in enumerate(recipe.stages):
        if stage.distil is not None and isinstance(teacher := stage.distil.teacher, Path) and not teacher.is_dir():
            yield f"stages.{number}.distil.from: there is no folder {teacher} on this machine"
    if recipe.unlabelled is not None and not recipe.unlabelled.exists():
        yield f"distil.unlabelled: there is no folder or table {recipe.unlabelled} on this machine"
    if recipe.early_stopping >= recipe.epochs:
        yield f"early_stopping {recipe.early_stopping} of {recipe.epochs} epochs never ends the run"
    for branch in model.map_shapes:
        key = weights_of(branch)
        backbone: nn.Module = getattr(model, key)
        start = getattr(recipe.start, key)
        if start.weights is not None and not start.weights.is_file():
            yield f"start.{key}.weights: there is no file {start.weights} on this machine"
        if start.pretrained or start.weights or recipe.start.bundle:
            continue
        settings = [getattr(stage, key) for stage in recipe.stages]
        partly = [stage.name for stage, setting in zip(recipe.stages, settings, strict=True) if setting != "all"]
        if "all" not in settings:
            yield f"the {branch} has random weights and never trains as a whole: give start.{key}, or train it"
        elif partly:
            yield f"the {branch} has random weights, but is frozen in {', '.join(partly)}: give start.{key}"
        if recipe.batch_norm == "frozen" and any(isinstance(module, BatchNorm) for module in backbone.modules()):
            yield f"the {branch} has random weights, and its batch norms never learn statistics: use batch_norm: sync"
