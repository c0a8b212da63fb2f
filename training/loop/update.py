"""One optimizer update: forward and backward passes of a batch's parts, the summed gradient, clipping, the step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.nn import functional

from app.models.cnnswin import CNNViTFusion
from app.models.feature_maps import FeatureMaps
from app.shapes import Float, Int, UInt8
from training.loading.forward import to_model_input
from training.loading.mix import mix
from training.loop.branch_dropout import drop_branches
from training.loop.distil import distiller_of
from training.loop.loss import Loss
from training.loop.processes import Processes
from training.recipe.config import Recipe, RecipeError

# The CNN's views, the Swin's views and the labels of the pictures that go through the model at once.
BatchPart = tuple[UInt8[Tensor, "b 3 h w"], UInt8[Tensor, "b 3 h w"], Int[Tensor, " b"]]


@dataclass(frozen=True)
class Sums:
    """Sums over all processes: the loss of the whole batch, and whether any process was asked to stop.

    `distilled` is the part of the loss that is the distillation's, with its weight.
    """

    loss: float
    stop: bool
    distilled: float


class Updater:
    """Computes and applies updates of a model. The caller applies the model's stage (see `apply_stage`).

    `distillers` are those of the stages that have any: see `distillers_of`.
    """

    def __init__(
        self,
        model: CNNViTFusion,
        adam: optim.AdamW,
        loss: Loss,
        recipe: Recipe,
        processes: Processes,
        distillers: nn.ModuleDict | None = None,
    ) -> None:
        self.model, self.adam, self.loss, self.recipe, self.processes = model, adam, loss, recipe, processes
        self.distillers = nn.ModuleDict() if distillers is None else distillers
        self._parameters = [*model.parameters(), *self.distillers.parameters()]
        self.autocast_dtype = autocast_dtype(recipe.precision, processes.device)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=self.autocast_dtype is torch.float16)

    def gradients(
        self, parts: Iterable[BatchPart], labels: list[int], epoch: int, update: int, stop: bool = False
    ) -> Sums:
        """Compute the gradient of the batch's mean loss for every trainable parameter, unscaled and before clipping.

        `parts` are this process's parts of the batch, and `labels` those of the whole batch. `update` is counted from
        the start of the run. `stop` says that this process was asked to stop. Dropout of all kinds depends on (seed,
        update, part), and MixUp on (seed, epoch, update), so that a resumed run repeats them.
        """
        device, dtype = self.processes.device, next(self.model.parameters()).dtype
        normaliser = self.loss.normaliser(labels)
        stage = self.recipe.stage_at(epoch)
        distiller = distiller_of(self.distillers, self.recipe, epoch)
        self.adam.zero_grad(set_to_none=True)
        total, distilled = torch.zeros(2, device=device, dtype=dtype)
        for number, (cnn, swin, part_labels) in enumerate(parts):
            part = self.processes.rank * self.recipe.accumulate + number
            torch.manual_seed(_seed(self.recipe.seed, update, part))
            targets = functional.one_hot(part_labels.to(device), self.model.num_classes).to(dtype)
            cnn_input, swin_input = (
                to_model_input(view.to(device, non_blocking=True)).to(dtype) for view in (cnn, swin)
            )
            position = {"seed": self.recipe.seed, "epoch": epoch, "update": update}
            mixed = mix(cnn_input, swin_input, targets, config=self.recipe.augmentation, **position)
            with torch.autocast(device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
                maps = self.model.encode(mixed[0], mixed[1])
                logits = self._logits(maps, update, part).to(dtype) if stage.head == "all" else None
                taught = None if distiller is None else distiller(mixed[0], maps, logits)
            loss = torch.zeros((), device=device, dtype=dtype)
            if logits is not None:
                loss = self.loss(logits, mixed[2]) / normaliser
            if stage.distil is not None and taught is not None:
                share = stage.distil.weight * taught.to(dtype) / len(labels)
                loss, distilled = loss + share, distilled + share.detach()
            self.scaler.scale(loss).backward()
            total = total + loss.detach()
        extra = torch.stack([total, distilled, torch.tensor(float(stop), device=device, dtype=dtype)])
        loss_sum, distilled_sum, stops = self.processes.add_gradients(self._parameters, extra).tolist()
        self.scaler.unscale_(self.adam)
        return Sums(loss_sum, stops > 0, distilled_sum)

    def _logits(self, maps: FeatureMaps[Tensor], update: int, part: int) -> Float[Tensor, "b k"]:
        """What the head answers, for some pictures without one of the branches, as the recipe asks for."""
        recipe = self.recipe
        return self.model.classify(
            drop_branches(maps, recipe.branch_dropout, seed=recipe.seed, update=update, part=part)
        )[0]

    def gradient_norms(self) -> dict[str, float]:
        """Return the 2-norm of the gradient in each trainable part of the model: cnn, swin, head."""
        norms = {}
        for part, module in self.model.named_children():
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            if gradients:
                norms[part] = float(nn.utils.get_total_norm(gradients))
        return norms

    def apply(self) -> bool:
        """Clip the gradient and make the optimizer's step.

        Returns False, without a step, if the gradient is not finite. In fp16 such a step is expected: the gradient
        scaler skips it and lowers its scale, and the result is True.
        """
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if not self.scaler.is_enabled() and not bool(norm.isfinite()):
            return False
        nn.utils.clip_grads_with_norm_(self._parameters, self.recipe.clip_norm, norm)
        self.scaler.step(self.adam)
        self.scaler.update()
        return True


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the data type of autocast, or None for fp32. Raises RecipeError for fp16 without a GPU."""
    cuda = device.type == "cuda"
    if precision == "auto":
        precision = "fp32" if not cuda else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if precision == "fp16" and not cuda:
        raise RecipeError("precision: fp16 needs a GPU: use auto, fp32 or bf16")
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
