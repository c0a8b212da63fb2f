"""What is told when the processes that load pictures fail: with real processes, which really end so."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.data.samples import DataError
from training.loading.workers import LoadingError, loaded


class Failing(Dataset[Tensor]):
    """Items of a megabyte. The first one does something first."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        self.act()
        return torch.zeros(1 << 20, dtype=torch.uint8)


def die(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def fill_shared_memory() -> None:
    """A limit on the size of a file fails as a full /dev/shm does, and needs none to be filled."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


def run_out_of_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (8, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def refuse() -> None:
    raise DataError("a.jpg cannot be read")


def break_down() -> None:
    raise RuntimeError("a bug")


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: die(signal.SIGKILL), "was killed, most likely because memory ran out"),
        (lambda: die(signal.SIGBUS), "--shm-size"),
        (lambda: os._exit(3), "was killed"),
        (fill_shared_memory, "--shm-size"),
        (run_out_of_files, "ulimit -n"),
    ],
    ids=["killed", "bus error", "ended", "shared memory", "files"],
)
def test_workers_that_fail_are_told_with_what_to_do(act: Callable[[], object], sentence: str) -> None:
    with pytest.raises(LoadingError, match=sentence) as told:
        list(loaded(DataLoader(Failing(act), batch_size=2, num_workers=1)))
    assert "--set workers=1" in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(("act", "kind"), [(refuse, DataError), (break_down, RuntimeError)])
@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_not_the_workers_fault_stays_what_it_is(
    act: Callable[[], object], kind: type[Exception], workers: int
) -> None:
    with pytest.raises(kind) as told:
        list(loaded(DataLoader(Failing(act), batch_size=2, num_workers=workers)))
    assert not isinstance(told.value, LoadingError)
