"""What training decides where there is a GPU, without one: only what torch says of the machine is made up."""

from __future__ import annotations

import os

import pytest
import torch

from training.loop.processes import process_group
from training.loop.session import deterministic
from training.loop.update import autocast_dtype
from training.recipe.config import RecipeError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.mark.parametrize("precision, dtype", [("auto", None), ("fp32", None), ("bf16", torch.bfloat16)])
def test_a_cpu_trains_in_fp32_or_as_it_is_told(precision: str, dtype: torch.dtype | None) -> None:
    assert autocast_dtype(precision, CPU) is dtype


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        autocast_dtype("fp16", CPU)


@pytest.mark.parametrize("has_bf16, dtype", [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_trains_in_bf16_if_it_has_that(
    has_bf16: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    assert autocast_dtype("auto", GPU) is dtype
    assert autocast_dtype("fp32", GPU) is None
    assert autocast_dtype("fp16", GPU) is torch.float16


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with process_group() as processes:
        assert processes.device == GPU
    assert chosen == [GPU]


def test_cublas_is_told_to_be_deterministic_unless_somebody_told_it_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is absent again in the end
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with deterministic(CPU):
        assert torch.are_deterministic_algorithms_enabled()
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with deterministic(GPU):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic(GPU):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert not torch.are_deterministic_algorithms_enabled()
