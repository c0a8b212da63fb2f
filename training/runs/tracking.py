"""Logging of a run: always to a JSONL file, and on request to Weights & Biases or TensorBoard.

A record is a mapping with its `kind`, its `update` (the number of updates before it) and values, which may be nested:
`{"kind": "epoch", "update": 250, "loss": 0.4, "val": {"auroc": 0.8}}`. The record of kind `end` has the final values.
Trackers plot a value over the updates under the name of its kind and path, such as `epoch/val/auroc`.

Both packages are optional, and are imported only if they are used.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from app.shapes import UInt8
from training.errors import TrainingProblem
from training.output import naming
from training.recipe.config import Recipe

Record = Mapping[str, Any]
CaptionedPictures = Sequence[tuple[str, UInt8[np.ndarray, "_ _ 3"]]]  # pairs of caption and RGB picture


class TrackingError(TrainingProblem, RuntimeError):
    """A log or tracker that cannot be used. The message says what to do."""


class Log:
    """A file of records with one JSON object per line. Each record is written immediately.

    JSON has neither NaN nor infinity, so such a value is written as null.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        """Open the log and truncate it to `size` bytes, the value of `sync` at the checkpoint to resume from.

        Raises TrackingError if no line of the file ends there, and OSError.
        """
        kept = path.read_bytes()[:size] if size else b""
        if size and (len(kept) < size or not kept.endswith(b"\n")):
            raise TrackingError(f"{path} has no line that ends at byte {size}: it is not the log of this checkpoint")
        # Unbuffered, so that after a full disk no data is left that closing would try to write again.
        self._path, self._file = path, path.open("ab", buffering=0)
        self._file.truncate(size)

    def write(self, record: Record) -> None:
        """Append a record as one line. Raises OSError if it cannot be written completely."""
        line = memoryview(json.dumps(_json_value(record), allow_nan=False).encode() + b"\n")
        with naming(self._path):
            while line:
                line = line[self._file.write(line) :]

    def sync(self) -> int:
        """Sync the log to disk, and return its size in bytes."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file. Nothing can be written afterwards."""
        self._file.close()


@runtime_checkable
class Tracker(Protocol):
    """Shows a run during and after training."""

    def log(self, record: Record) -> None:
        """Show the values of a record."""

    def pictures(self, name: str, update: int, pictures: CaptionedPictures) -> None:
        """Show pictures with their captions."""

    def finish(self) -> None:
        """Write everything that is pending. Nothing can be shown afterwards."""


class WandbTracker:
    """Weights & Biases, online or, with WANDB_MODE=offline, in `out/wandb`.

    A run that is resumed from the same folder continues the same W&B run. Values that an interrupted run logged after
    its last checkpoint then appear twice, at the same update. Neither the code nor details of the machine are sent.
    """

    def __init__(self, out: Path, recipe: Recipe) -> None:
        """Start a W&B run, or continue the one whose id is in `out/wandb-id`. Raises TrackingError."""
        # wandb would log its own work in the home folder. It takes this from the environment alone.
        os.environ.setdefault("WANDB_CACHE_DIR", str(out.resolve() / "wandb" / "cache"))
        import wandb

        id_file = out / "wandb-id"
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(8))
        try:
            self._run = wandb.init(
                project="fusionlens",
                name=recipe.name,
                id=id_file.read_text(),
                resume="allow",
                reinit="create_new",
                dir=out,
                config=recipe.model_dump(mode="json"),
                settings=wandb.Settings(
                    disable_code=True,
                    disable_git=True,
                    x_disable_machine_info=True,
                    x_save_requirements=False,
                    host="",
                    console="off",
                    quiet=True,
                ),
            )
        except wandb.errors.Error as error:
            raise TrackingError(
                f"wandb cannot start ({error}): run `wandb login`, or set WANDB_MODE=offline and `wandb sync` it later"
            ) from error
        self._run.define_metric("update")
        self._run.define_metric("*", step_metric="update")
        self._ended = False

    def log(self, record: Record) -> None:
        """Add a record to the run's history. The values of the `end` record go into its summary."""
        if record["kind"] == "end":
            self._run.summary.update(_flat_values(record))
            self._ended = True
        else:
            self._run.log({"update": record["update"], **_flat_values(record)})

    def pictures(self, name: str, update: int, pictures: CaptionedPictures) -> None:
        """Add the pictures to the run's history as PNG."""
        from wandb import Image

        images = [Image(rgb, mode="RGB", caption=caption, file_type="png") for caption, rgb in pictures]
        self._run.log({"update": update, name: images})

    def finish(self) -> None:
        """Upload what is pending. A run whose `end` was not logged counts as failed until it is resumed."""
        self._run.finish(exit_code=0 if self._ended else 1)


class TensorBoardTracker:
    """TensorBoard event files in `out/tensorboard`. Values that are not numbers are left out."""

    def __init__(self, out: Path, update: int) -> None:
        """Open the event files. Entries of an earlier process after `update` are hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=update + 1)

    def log(self, record: Record) -> None:
        """Add a point to the curve of each number."""
        for name, value in _flat_values(record).items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, record["update"])
        self._writer.flush()

    def pictures(self, name: str, update: int, pictures: CaptionedPictures) -> None:
        """Add the pictures under their numbers, and their captions as a numbered text."""
        for number, (_, rgb) in enumerate(pictures):
            self._writer.add_image(f"{name}/{number}", rgb, update, dataformats="HWC")
        captions = (f"{number}. {caption}" for number, (caption, _) in enumerate(pictures))
        self._writer.add_text(name, "\n".join(captions), update)
        self._writer.flush()

    def finish(self) -> None:
        """Close the event file."""
        self._writer.close()


TRACKERS: dict[str, Callable[[Path, Recipe, int], Tracker]] = {
    "wandb": lambda out, recipe, update: WandbTracker(out, recipe),
    "tensorboard": lambda out, recipe, update: TensorBoardTracker(out, update),
}


def trackers(names: Sequence[str], out: Path, recipe: Recipe, update: int) -> list[Tracker]:
    """Create the named trackers for the run in the folder `out`, which starts or resumes after `update` updates.

    Raises TrackingError for a name that is not in `TRACKERS`, for a package that is not installed, and for a tracker
    that cannot start.
    """
    for name in names:
        if name not in TRACKERS:
            raise TrackingError(f"no tracker {name!r}: choose from {', '.join(TRACKERS)}")
        if not _installed(name):
            raise TrackingError(f"{name} is not installed: pip install 'fusionlens[{name}]'")
    started: list[Tracker] = []
    try:
        for name in dict.fromkeys(names):
            started.append(TRACKERS[name](out, recipe, update))
    except BaseException:
        for tracker in started:
            tracker.finish()
        raise
    return started


def _installed(package: str) -> bool:
    """Whether the package is installed. A mere folder of that name, such as wandb's own, does not count."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def _flat_values(record: Record) -> dict[str, Any]:
    """Return a record's values under their kind and path, such as `epoch/val/auroc`."""
    values: dict[str, Any] = {}

    def collect(group: Mapping[str, Any], path: str) -> None:
        for name, value in group.items():
            if isinstance(value, Mapping):
                collect(value, f"{path}/{name}")
            else:
                values[f"{path}/{name}"] = value

    collect({name: value for name, value in record.items() if name not in {"kind", "update"}}, record["kind"])
    return values


def _json_value(value: Any) -> Any:
    """Replace values that JSON cannot represent, NaN and infinities, by None."""
    if isinstance(value, Mapping):
        return {name: _json_value(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
