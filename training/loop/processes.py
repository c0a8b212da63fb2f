"""Data-parallel training in several processes.

Gradients are summed over processes once per update, in one flat vector, after all accumulated parts. The model is not
wrapped, so the set of trainable parameters can change at any time, and the same code runs in a single process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, distributed, nn

from app.models.cnnswin import CNNViTFusion
from app.shapes import Float
from training.recipe.config import RecipeError


@dataclass(frozen=True)
class Processes:
    """This process's place in the group: its `rank`, the number of processes `count`, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """Whether this process writes files, logs and messages, which is rank 0's task."""
        return self.rank == 0

    def add_gradients(self, parameters: Sequence[nn.Parameter], extra: Float[Tensor, " e"]) -> Float[Tensor, " e"]:
        """Replace every gradient by its sum over all processes, and return the sum of `extra` over all processes."""
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
        """Return all processes' values in the order of ranks."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.count > 1:
            distributed.barrier()


def to_device(model: CNNViTFusion, batch_norm: str, processes: Processes) -> CNNViTFusion:
    """Move the model to this process's device.

    If `batch_norm` is `sync` and there are several processes, batch norms share their statistics between processes.
    Raises RecipeError for this on CPUs, where torch does not support it.
    """
    if batch_norm == "sync" and processes.count > 1:
        if processes.device.type == "cpu":
            raise RecipeError("batch_norm: sync with several processes needs GPUs: use frozen, or one process")
        model = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return model.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@contextmanager
def process_group() -> Iterator[Processes]:
    """Join the processes that torchrun started, with NCCL on GPUs and gloo on CPUs. Calls can be nested.

    Without torchrun, the group has this process alone.
    """
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
