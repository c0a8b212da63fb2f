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


def leave_stopping_to_the_training_process(worker: int) -> None:
    """Make a loading worker outlive the signals that ask the training process to stop, since they reach it too.

    Ctrl-C goes to a whole group of processes; systemd and some schedulers send SIGTERM so. The training process still
    needs this worker to finish its update and to write a checkpoint, and ends it. A second SIGTERM ends it at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
