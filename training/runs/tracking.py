"""Where a run's figures go: a JSONL file always, and Weights & Biases or TensorBoard where they are asked for.

A record is a mapping that names its `kind` and its `update` (how many updates came before it), with figures that may
be grouped: `{"kind": "epoch", "update": 250, "loss": 0.4, "val": {"auroc": 0.8}}`. Kind `end` holds the final figures.
Trackers show a figure under its kind and path, `epoch/val/auroc`, over the updates.

The two packages are optional and are imported only where they are used.
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
from jaxtyping import UInt8

from training.recipe.config import Recipe

Record = Mapping[str, Any]
CaptionedPictures = Sequence[tuple[str, UInt8[np.ndarray, "_ _ 3"]]]  # captions and RGB


class TrackingError(RuntimeError):
    """Figures that cannot be kept as asked, and what to do."""


class Log:
    """A file of records, one JSON object a line, to which each is added at once.

    JSON has no NaN and no infinity: such a figure is written as null.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        """Open the log, cut to its first `size` bytes: what `sync` returned at the checkpoint to go on from.

        Raises TrackingError if the file has no line that ends there, and OSError.
        """
        kept = path.read_bytes()[:size] if size else b""
        if size and (len(kept) < size or not kept.endswith(b"\n")):
            raise TrackingError(f"{path} has no line that ends at byte {size}: it is not the log of this checkpoint")
        # Unbuffered: after a full disk there is nothing left that closing would try to write once more.
        self._file = path.open("ab", buffering=0)
        self._file.truncate(size)

    def write(self, record: Record) -> None:
        """Add a record as one line. Raises OSError where it cannot be written whole."""
        line = memoryview(json.dumps(_json_value(record), allow_nan=False).encode() + b"\n")
        while line:
            line = line[self._file.write(line) :]

    def sync(self) -> int:
        """The log's size in bytes, once all of it is safe from a power cut."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Nothing is written after this."""
        self._file.close()


@runtime_checkable
class Tracker(Protocol):
    """Shows a run while it trains, and afterwards."""

    def log(self, record: Record) -> None:
        """Show the figures of a record."""

    def pictures(self, name: str, update: int, pictures: CaptionedPictures) -> None:
        """Show pictures with their captions."""

    def finish(self) -> None:
        """Bring everything to its place. Nothing is shown after this."""


class WandbTracker:
    """Weights & Biases, online or, with WANDB_MODE=offline, in `out/wandb`.

    A run that is resumed from the same folder is the same run there. Figures that an interrupted run had shown
    after its checkpoint are then shown twice, at the same update. The project's code and the machine are not told.
    """

    def __init__(self, out: Path, recipe: Recipe) -> None:
        """Begin the run, or go on with the one whose id is in `out/wandb-id`. Raises TrackingError."""
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
                f"wandb cannot begin ({error}): run `wandb login`, or set WANDB_MODE=offline and `wandb sync` it later"
            ) from error
        self._run.define_metric("update")
        self._run.define_metric("*", step_metric="update")
        self._ended = False

    def log(self, record: Record) -> None:
        """Add a row to the run's history, or, for the end, the final figures to its summary."""
        if record["kind"] == "end":
            self._run.summary.update(_flat_values(record))
            self._ended = True
        else:
            self._run.log({"update": record["update"], **_flat_values(record)})

    def pictures(self, name: str, update: int, pictures: CaptionedPictures) -> None:
        """Add the pictures to the run's history, as PNG."""
        from wandb import Image

        images = [Image(rgb, mode="RGB", caption=caption, file_type="png") for caption, rgb in pictures]
        self._run.log({"update": update, name: images})

    def finish(self) -> None:
        """Upload what is left. A run whose end was not logged counts as failed until it is resumed."""
        self._run.finish(exit_code=0 if self._ended else 1)


class TensorBoardTracker:
    """TensorBoard: event files in `out/tensorboard`. Words among the figures are left out, since it draws curves."""

    def __init__(self, out: Path, update: int) -> None:
        """Begin, or go on after `update`: what an earlier process showed of later updates is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=update + 1)

    def log(self, record: Record) -> None:
        """Add a point to the curve of each figure."""
        for name, value in _flat_values(record).items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, record["update"])
        self._writer.flush()

    def pictures(self, name: str, update: int, pictures: CaptionedPictures) -> None:
        """Add the pictures under their place in the sequence, and their captions as a numbered text."""
        for place, (_, rgb) in enumerate(pictures):
            self._writer.add_image(f"{name}/{place}", rgb, update, dataformats="HWC")
        captions = (f"{place}. {caption}" for place, (caption, _) in enumerate(pictures))
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
    """The trackers `names` of the run in the folder `out`, which begins, or goes on, after `update` updates.

    Raises TrackingError for a name that is not in `TRACKERS` and for a package that is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise TrackingError(f"no tracker {name!r}: choose from {', '.join(TRACKERS)}")
        if not _installed(name):
            raise TrackingError(f"{name} is not installed: pip install 'fusionlens[{name}]'")
    return [TRACKERS[name](out, recipe, update) for name in dict.fromkeys(names)]


def _installed(package: str) -> bool:
    """Whether it is a package, and not just a folder of that name, such as the one where wandb keeps its runs."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def _flat_values(record: Record) -> dict[str, Any]:
    """A record's figures by kind and path, such as `epoch/val/auroc`."""
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
    """The value as JSON can hold it."""
    if isinstance(value, Mapping):
        return {name: _json_value(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
