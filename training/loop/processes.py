"""Several processes that train one model: who writes, and how sums are made.

Gradients are added up once an update in one flat vector, after all accumulated parts. Nothing wraps the model, so a
change of the trainable set needs nothing, and the same code runs with one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, distributed, nn

from app.models.cnnswin import CNNViTFusion
from training.recipe.config import RecipeError


@dataclass(frozen=True)
class Processes:
    """This process's `rank` among `count`, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """Whether this process writes files, logs and messages. Only rank 0 does."""
        return self.rank == 0

    def add_gradients(self, parameters: Sequence[nn.Parameter], extra: Float[Tensor, " e"]) -> Float[Tensor, " e"]:
        """Replace every gradient by its sum over all processes, and return the sum of `extra` with it."""
        if self.count == 1:
            return extra
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), extra])
        distributed.all_reduce(flat)
        sizes = [gradient.numel() for gradient in gradients]
        *parts, extra = flat.split([*sizes, len(extra)])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return extra

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of their ranks, in every process."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.count > 1:
            distributed.barrier()


def to_device(model: CNNViTFusion, batch_norm: str, processes: Processes) -> CNNViTFusion:
    """The model on this process's device; where `batch_norm` is `sync`, processes share their batches' statistics.

    Raises RecipeError for that on CPUs, where torch has no such batch norm.
    """
    if batch_norm == "sync" and processes.count > 1:
        if processes.device.type == "cpu":
            raise RecipeError("batch_norm: sync needs GPUs where several processes train; take frozen, or one process")
        model = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return model.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@contextmanager
def process_group() -> Iterator[Processes]:
    """This process among those that torchrun started (NCCL on GPUs, gloo on CPUs), or alone. Can be nested."""
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if count == 1 or distributed.is_initialized():
        yield Processes(rank, count, device)
        return
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Processes(rank, count, device)
    finally:
        distributed.destroy_process_group()
