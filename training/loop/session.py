"""What a training process sets up around the loop: repeatable arithmetic, and signals that wait for a good moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass
class StopSignal:
    """Whether this process was asked to stop."""

    requested: bool = False


@contextmanager
def stop_signal() -> Iterator[StopSignal]:
    """Remember SIGTERM and SIGINT instead of dying of them. A second one of the same kind has its usual effect."""
    stop = StopSignal()
    previous = {number: signal.getsignal(number) for number in SIGNALS}

    def request_stop(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        signal.signal(number, previous[signal.Signals(number)])

    for number in SIGNALS:
        signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Have torch choose algorithms that give the same bits each time, and refuse those that cannot."""
    if device.type == "cuda":
        # cuBLAS reads this when it starts; without a fixed workspace torch refuses it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    previous = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(previous)


def ignore_interrupt(worker: int) -> None:
    """For loading workers: Ctrl-C in a terminal reaches them too, but when to stop is the trainer's decision."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
