"""The section of resuming: a run of `progressive` that was killed goes on to the same weights, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.numpy

from benchmarks.gpu.effort import Effort
from benchmarks.gpu.notes import Notes
from training.data.draw import draw_dataset

RUN, DATA = "whole", "data"  # in the folder of this section; the section of export reads both
KILLED_AT_LINE = 5  # of the log, when some checkpoints are there and the last epoch is not


def measure(notes: Notes, effort: Effort, device: str, folder: Path) -> None:
    """Train once without interruption and once with a SIGKILL, by the command line, and compare what both leave."""
    draw_dataset(folder / DATA, effort.drawn_pictures, seed=1)
    began = time.perf_counter()
    _finish(_start(folder, RUN, effort))
    notes.keep("whole_s", time.perf_counter() - began)
    records = _log(folder / RUN)
    notes.keep("epochs", [record for record in records if record["kind"] == "epoch"])
    notes.check("runs that did not come to their end", float(records[-1]["kind"] != "end"), 0)
    process = _start(folder, "killed", effort)
    while _lines(folder / "killed") < KILLED_AT_LINE and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    killed_after = sum(record["kind"] == "update" for record in _log(folder / "killed"))
    notes.keep("updates", {"killed_after": killed_after, "whole": records[-1]["update"]})
    notes.check("runs that ended before they could be killed", float(process.returncode != -signal.SIGKILL), 0)
    _finish(_start(folder, "killed", effort, "--resume"))
    notes.check("weights that differ after resuming", float(_different_weights(folder)), 0)
    ours, theirs = (_without_times(_log(folder / name)) for name in (RUN, "killed"))
    notes.check("records of the log that differ after resuming", float(_different(ours, theirs)), 0)


def _start(folder: Path, run: str, effort: Effort, *options: str) -> subprocess.Popen[bytes]:
    """`fit`, by the command line."""
    recipe = [f"{name}={json.dumps(value)}" for name, value in _changes(effort).items()]
    words = ["fit", "progressive", *(word for change in recipe for word in ("--set", change))]
    paths = ["--data", str(folder / DATA), "--out", str(folder / run)]
    return subprocess.Popen([sys.executable, "-m", "training", *words, *paths, *options])


def _finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of `fit`, which says on standard error why it fails. Raises RuntimeError if it does."""
    if (status := process.wait()) != 0:
        raise RuntimeError(f"fit ended with status {status}")


def _changes(effort: Effort) -> Mapping[str, Any]:
    """What is changed of `progressive`: nothing is downloaded, its epochs are few, and it writes often."""
    model = effort.architecture.model_dump() | {"image_size": [effort.side_px, effort.side_px]}
    changes: dict[str, Any] = {f"model.{name}": value for name, value in model.items() if value is not None}
    changes |= {"start.cnn.pretrained": False, "start.swin.pretrained": False}
    changes |= {"stages.0.epochs": 1, "stages.1.epochs": 1, "checkpoint_updates": 2, "log_updates": 1}
    if effort.side_px != 224:
        changes["stages.1.cnn.last"] = 2
    return changes | {"batch_size": max(4, effort.batch_size // 4), "workers": effort.workers}


def _log(run: Path) -> list[dict[str, Any]]:
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def _lines(run: Path) -> int:
    return (run / "log.jsonl").read_bytes().count(b"\n") if (run / "log.jsonl").is_file() else 0


def _without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name != "timing"} for record in records]


def _different_weights(folder: Path) -> int:
    """The number of tensors that are not equal to the bit."""
    one, other = (safetensors.numpy.load_file(folder / run / "ema.safetensors") for run in (RUN, "killed"))
    return sum(one[name].tobytes() != other[name].tobytes() for name in one)


def _different(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> int:
    return abs(len(ours) - len(theirs)) + sum(one != other for one, other in zip(ours, theirs, strict=False))
