"""Whether the pictures that the export of a run needs can be read, which is known before the run counts as finished.

An update reads the pictures that it shows, and each epoch reads those of val. Other pictures are read here, once: those
of calibration, those of train that no epoch has shown, and those that went or changed after an update had read them.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from app.progress import Steps
from app.shapes import Bool, UInt8
from training.data.samples import Sample
from training.loading.unreadable import MarkingSet
from training.loading.workers import loaded
from training.loop.processes import Processes
from training.runs.contents import content_marks, read_marks
from training.runs.run import Run

_BATCH = 25


def unread_pictures(
    run: Run, shown: Bool[np.ndarray, " n"], skipped: Collection[str], processes: Processes
) -> list[Sample]:
    """Return the pictures of train and calibration of which it is not known that they can be read.

    `shown` says of each picture of train, and of those without labels behind them, whether an update has read it. The
    pictures `skipped` are left out. Rank 0 compares the files, and all processes return its list. Raises DataError if
    the record of the contents is damaged.
    """
    return processes.gather(_unread(run, shown, skipped) if processes.writes else [])[0]  # type: ignore[no-any-return]


def _unread(run: Run, shown: Bool[np.ndarray, " n"], skipped: Collection[str]) -> list[Sample]:
    train = run.samples_of("train")
    read = {sample.path for sample, was_shown in zip(train, shown, strict=False) if was_shown}
    samples = [each for each in (*train, *run.samples_of("calibration")) if str(each.path) not in skipped]
    recorded = read_marks(run.contents) if run.contents.is_file() else {}
    now = content_marks([sample.path for sample in samples])
    unchanged = {path for path, mark in now.items() if mark is not None and mark == recorded.get(path)}
    return [sample for sample in samples if sample.path not in read & unchanged]


def unreadable_pictures(samples: Sequence[Sample], run: Run, processes: Processes) -> dict[Sample, str]:
    """Read pictures as the export does, shared by the processes, and return the unreadable ones with the reasons.

    Raises LoadingError if the workers that load them fail.
    """
    if not samples:
        return {}
    own = samples[processes.rank :: processes.count]
    reasons = [reason for _, of_batch in marked_batches(own, run, processes, "reading") for reason in of_batch]
    all_reasons = [""] * len(samples)
    for rank, of_process in enumerate(processes.gather(reasons)):
        all_reasons[rank :: processes.count] = of_process
    return {sample: reason for sample, reason in zip(samples, all_reasons, strict=True) if reason}


def marked_batches(
    own: Sequence[Sample], run: Run, processes: Processes, what: str
) -> Iterator[tuple[UInt8[Tensor, "b 3 h w"], list[str]]]:
    """Read a process's own pictures as the run's model sees them, and yield batches of them with what is wrong.

    The reason is empty for a picture that can be read. `what` names the work in the progress. Raises LoadingError if
    the workers that load them fail.
    """
    pictures = DataLoader(
        MarkingSet(own, run.recipe.model.image_size, run.recipe.stretch),
        _BATCH,
        num_workers=run.recipe.workers if own else 0,
    )
    with Steps(what, len(own), "pictures", stream=sys.stderr if processes.writes else None) as steps:
        for batch, reasons in loaded(pictures):
            yield batch, reasons
            steps.update(len(reasons))
