"""The set-up of a training process: deterministic algorithms and deferred stop signals."""

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
    """Whether a signal has asked this process to stop."""

    requested: bool = False


@contextmanager
def stop_signal() -> Iterator[StopSignal]:
    """Record SIGTERM and SIGINT instead of exiting. A second signal of the same kind has its usual effect."""
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
    """Make torch use deterministic algorithms, and raise RuntimeError where it has none."""
    if device.type == "cuda":
        # cuBLAS reads this variable when it starts. Without a fixed workspace, torch refuses to use cuBLAS.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    previous = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(previous)


def ignore_interrupt(worker: int) -> None:
    """Make a loading worker ignore Ctrl-C, which reaches it too. The training process decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
