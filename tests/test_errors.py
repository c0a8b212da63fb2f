"""Every error that is raised on purpose becomes a sentence at the command line, or never gets there."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator

import pytest
import torch

import app.cli
import training.cli
from app.errors import BadParameter, FusionLensError
from training.errors import TrainingProblem

# Raised and caught within one part: no command ever sees them.
INTERNAL = {"app.server.http.RefusedRequest", "app.pictures.messages.BrokenMessage"}
INTERNAL |= {"app.pictures.messages.ConnectionEnded"}
INTERNAL |= {"app.serving.decoder_process.DecoderEnded", "app.pictures.colour._UnusableProfile"}
INTERNAL |= {"app.trust.conformal.ImpossibleCoverage"}
INTERNAL |= {f"training.metrics.classification.{name}" for name in ("TooFewGroups", "UndefinedMetric")}
OPTIONAL = {"ray"}


def error_classes() -> Iterator[type[Exception]]:
    for package in (app, training):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__"):
                continue
            try:
                loaded = importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                assert error.name in OPTIONAL
                continue
            for entry in vars(loaded).values():
                if isinstance(entry, type) and issubclass(entry, Exception) and entry.__module__ == module.name:
                    yield entry


def test_the_commands_know_every_error_of_their_packages() -> None:
    unknown = {
        f"{error.__module__}.{error.__qualname__}"
        for error in error_classes()
        if not issubclass(error, FusionLensError | TrainingProblem)
    }
    assert unknown == INTERNAL, "derive it from FusionLensError or TrainingProblem, or say here that it stays inside"


def raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "too little memory"),
        (OSError(28, "No space left on device", "runs/x"), ": runs/x: No space left on device"),
        (OSError("cannot listen"), ": cannot listen"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "is not UTF-8"),
        (BadParameter("Choose a target."), ": Choose a target."),
    ],
)
@pytest.mark.parametrize("status_of", [app.cli.status_of, training.cli.status_of])
def test_what_is_expected_is_told_in_a_line(
    status_of: Callable[[Callable[[], int]], int],
    error: BaseException,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert status_of(raising(error)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fusionlens") and sentence in line


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
            "the GPU has too little memory: CUDA",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "there is too little memory"),
    ],
)
def test_memory_that_torch_does_not_get_is_told(
    error: Exception, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert training.cli.status_of(raising(error)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line


@pytest.mark.parametrize("status_of", [app.cli.status_of, training.cli.status_of])
def test_a_mistake_of_the_program_is_no_sentence_and_ctrl_c_no_error(
    status_of: Callable[[Callable[[], int]], int],
) -> None:
    for error in (RuntimeError("a bug"), ValueError("a bug"), KeyError("a bug")):
        with pytest.raises(type(error), match="a bug"):
            status_of(raising(error))
    assert status_of(raising(KeyboardInterrupt())) == 130
