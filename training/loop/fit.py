"""The training loop, to be read from top to bottom.

A run that was interrupted and resumed ends with the same weights and the same log as an uninterrupted one. All random
choices depend on (seed, epoch, update, position) alone, so a checkpoint stores the progress and no random state.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch.utils.data import DataLoader

from app.progress import Steps
from training.data.samples import DataError, Sample
from training.errors import TrainingProblem
from training.loading.augment import TwoViews
from training.loading.draws import draws_of, shares_of
from training.loading.unreadable import ReplacingSet
from training.loading.views import EpochBatches, TrainingSet
from training.loading.workers import loaded
from training.loop.distil import distillers_of
from training.loop.ema import Ema
from training.loop.loss import Loss
from training.loop.optim import build_optimizer, set_rates
from training.loop.overlays import val_overlays
from training.loop.plan import check_graphs
from training.loop.pretrained import load_start_weights
from training.loop.processes import Processes, process_group, to_device
from training.loop.readable import unread_pictures, unreadable_pictures
from training.loop.sentences import gpu_too_small, not_finite, prolonging
from training.loop.session import StopSignal, deterministic, leave_stopping_to_the_training_process, stop_signal
from training.loop.skipping import newly_skipped, next_batch
from training.loop.stages import apply_stage, trainable_names
from training.loop.state import TrainState
from training.loop.update import BatchPart, Updater
from training.loop.validation import Validation, validate
from training.output import write_atomically
from training.recipe.config import Recipe, RecipeError
from training.runs.checkpoint import save_checkpoint
from training.runs.contents import forget_marks
from training.runs.resuming import ResumedRun, resume_run
from training.runs.run import Run, lock_run, new_run, write_run
from training.runs.tracking import Log, Tracker, trackers
from training.runs.unlabelled import UNLABELLED


class TrainingError(TrainingProblem, RuntimeError):
    """A run that had to stop. The message says why, and which files it left."""


def fit(
    recipe: Recipe,
    data: Path,
    out: Path,
    report: Callable[[str], None],
    *,
    resume: bool = False,
    track: Sequence[str] = (),
    skip_unreadable: int = 0,
) -> bool:
    """Train a recipe on a data set, and write the run to the folder `out`.

    `report` receives the messages. `resume` continues the run in `out` from its newest checkpoint. `track` names
    further trackers (see `TRACKERS`). Up to `skip_unreadable` pictures may be unreadable: each is replaced by another
    one of its class, or left out of val and calibration. A run only finishes when all others that its export needs can
    be read.

    Returns True when the run has finished, and False if SIGTERM or SIGINT stopped it; then it has written a checkpoint.
    Raises RecipeError, WeightsError, RunError or TrackingError before training starts, DataError for data or a picture
    that cannot be used, and TrainingError or LoadingError if training has to stop.
    """
    with process_group() as processes, deterministic(processes.device), stop_signal() as stop:
        resumed = resume_run(recipe, data, out, skip_unreadable) if resume else None
        run = resumed.run if resumed else new_run(recipe, data, out, skip_unreadable)
        state = resumed.state if resumed else None
        for remark in run.remarks if processes.writes else ():
            report(f"data: {remark}")
        trainer = Trainer(run, processes, report if processes.writes else _ignore, state, skip_unreadable)
        processes.wait()  # until every process has checked that the folder is free
        with lock_run(out) if processes.writes else nullcontext():
            if processes.writes:
                _write_start(run, resumed, trainer, report)
            trainer.train(track, stop)
        return not stop.requested


def check_run(recipe: Recipe, data: Path, folder: Path) -> None:
    """Prepare a new run as `fit` does, without training or writing. Raises what `fit` raises before it trains."""
    with process_group() as processes, deterministic(processes.device):
        Trainer(new_run(recipe, data, folder), processes, _ignore, None)


def _write_start(run: Run, resumed: ResumedRun | None, trainer: Trainer, report: Callable[[str], None]) -> None:
    """Write what a run starts with, or what has changed in it, and report the latter."""
    if resumed is None:
        if (run.folder / "recipe.yaml").exists():
            report(f"{run.folder} had a run without a checkpoint: it starts anew")
        write_run(run)
        return
    resumed.record()
    for note in resumed.notes:
        report(note)
    if run.recipe.epochs > resumed.epochs_before:
        report(prolonging(run.recipe, resumed.epochs_before, resumed.update, trainer.updates))


class Trainer:
    """Trains a run from the start, or from a checkpoint's `state`."""

    def __init__(
        self,
        run: Run,
        processes: Processes,
        report: Callable[[str], None],
        state: dict[str, Any] | None,
        skip_unreadable: int = 0,
    ) -> None:
        self.run, self.recipe, self.processes, self.report = run, run.recipe, processes, report
        self.skip_unreadable = skip_unreadable
        torch.manual_seed(self.recipe.seed)
        model = run.new_model()
        for sentence in check_graphs(self.recipe.model) if state is None and processes.writes else ():
            self.report(sentence)
        self.model = to_device(model, self.recipe.batch_norm, processes)
        labelled, self.labels, unlabelled = run.samples_of("train"), run.labels_of("train"), run.samples_of(UNLABELLED)
        self.draws = draws_of(self.recipe, labelled, self.labels, run.classes, len(unlabelled))
        if state is None and (shares := shares_of(self.draws, self.labels, run.classes)):
            self.report("shares of the draws: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
        self.train_samples = [*labelled, *unlabelled]
        shape = (self.recipe.batch_size, processes.rank, processes.count, self.recipe.accumulate)
        try:
            self.batches = EpochBatches(self._label_indices, self.draws, *shape)
        except ValueError as error:
            raise RecipeError(str(error)) from error
        self.updates = self.batches.updates * self.recipe.epochs
        loss = Loss.from_labels(self.labels, len(run.classes), self.recipe.imbalance, self.recipe.label_smoothing)
        distillers, remarks = distillers_of(self.recipe, self.model, run.classes, run.samples)
        for sentence in remarks if state is None else ():
            self.report(sentence)
        adam = build_optimizer(self.model, self.recipe, distillers)
        self.updater = Updater(self.model, adam, loss, self.recipe, processes, distillers)
        for stage in self.recipe.stages:
            trainable_names(self.model, stage)  # raises for an impossible stage now, not after hours
        if state is None:
            for sentence in load_start_weights(self.model, self.recipe, run.classes, run.samples):
                self.report(sentence)
        self.state, self._log_bytes = TrainState(self.updater, Ema(self.model, self.recipe.ema_decay)), 0
        if state is not None:
            self._log_bytes = self.state.restore(state, run.checkpoints)

    def train(self, track: Sequence[str], stop: StopSignal) -> None:
        """Train until the end of the recipe or until a signal."""
        if self.state.progress.update:
            self.report(f"resuming after update {self.state.progress.update} of {self.updates}")
        self.log = Log(self.run.log, self._log_bytes) if self.processes.writes else None
        self.trackers: list[Tracker] = (
            trackers(track, self.run.folder, self.recipe, self.state.progress.update) if self.processes.writes else []
        )
        try:
            loader = self._loader()
            for epoch in range(self.state.progress.update // self.batches.updates, self.recipe.epochs):
                if self.state.best.is_over(epoch, self.recipe):
                    self.report(f"stopped early: none of {self.recipe.early_stopping} epochs was better on val")
                    break
                if self._epoch(epoch, loader, stop):
                    self.report(f"stopped after update {self.state.progress.update}: continue with fit … --resume")
                    return
            self._finish()
        except DataError as error:
            self._forget([sample for sample in self.run.samples if f"{sample.path} cannot be read" in str(error)])
            raise
        except OSError as error:
            raise TrainingError(f"a file could not be written ({error}): the last checkpoint is kept") from error
        except torch.OutOfMemoryError as error:
            raise TrainingError(gpu_too_small(self.recipe, self.processes.count, str(error))) from error
        finally:
            for tracker in self.trackers:
                tracker.finish()
            if self.log is not None:
                self.log.close()

    def _epoch(self, epoch: int, loader: DataLoader[Any], stop: StopSignal) -> bool:
        """Train the rest of one epoch. Returns True if a signal stopped it."""
        stage, started, waited = self.recipe.stage_at(epoch), time.perf_counter(), 0.0
        apply_stage(self.model, stage, self.recipe.batch_norm)
        first = self.state.progress.update - epoch * self.batches.updates
        self.batches.start(epoch, first)
        batches = loaded(loader)
        name = f"epoch {epoch + 1}/{self.recipe.epochs} {stage.name}"
        stream = sys.stderr if self.processes.writes else None
        with Steps(name, self.batches.updates, "updates", done=first, stream=stream) as steps:
            for number in range(first, self.batches.updates):
                waiting = time.perf_counter()
                parts = self._next_parts(batches, epoch, number)
                waited += time.perf_counter() - waiting
                stopped = self._update(parts, epoch, number, stage.name, stop)
                steps.update()
                last = number == self.batches.updates - 1
                if not last and (stopped or self.state.progress.update % self.recipe.checkpoint_updates == 0):
                    self._save()
                if stopped and not last:
                    return True
        seconds = time.perf_counter() - started
        timing = {
            "seconds": seconds,
            "images_per_s": (self.batches.updates - first) * self.recipe.batch_size / seconds,
            "waiting_share": waited / seconds,
        }
        self._end_epoch(epoch, name, timing)
        self._save()
        return stopped

    def _next_parts(self, batches: Iterator[Any], epoch: int, number: int) -> list[BatchPart]:
        """Load this process's parts of an update, and count the pictures in them that were replaced."""
        parts: list[BatchPart] = []
        unreadable: dict[Sample, str] = {}
        for part in range(self.recipe.accumulate):
            cnn, swin, labels, reasons = next_batch(batches)
            parts.append((cnn, swin, labels))
            for (_, _, index), reason in zip(self.batches.keys(number, part), reasons, strict=True):
                if reason:
                    unreadable[self.train_samples[index]] = reason
        if self.skip_unreadable:
            for of_process in self.processes.gather(unreadable):
                self._count_skipped(of_process, epoch)
        return parts

    def _count_skipped(self, unreadable: dict[Sample, str], epoch: int) -> None:
        """Record pictures that are skipped for the first time. Raises DataError if there are too many of them."""
        skipped = self.state.progress.skipped
        for sample, reason in newly_skipped(unreadable, skipped, self.skip_unreadable):
            position = {"kind": "skipped", "update": self.state.progress.update, "epoch": epoch, "split": sample.split}
            self._write({**position, "picture": str(sample.path), "reason": reason})
            if self.processes.writes:
                self._forget([sample])
            self.report(f"skipped {len(skipped)} of at most {self.skip_unreadable}: {reason}")

    def _forget(self, unreadable: Sequence[Sample]) -> None:
        """Let other files take the place of unreadable ones: no update has used them."""
        if self.run.contents.is_file():
            forget_marks(self.run.contents, [sample.path for sample in unreadable])

    def _update(self, parts: list[BatchPart], epoch: int, number: int, stage: str, stop: StopSignal) -> bool:
        """Update the weights and their average once. Returns True if any process was asked to stop."""
        update = self.state.progress.update
        rates = set_rates(self.updater.adam, self.recipe, update, self.updates)
        labels = self.batches.labels_of_update(epoch, number)
        sums = self.updater.gradients(parts, labels, epoch, update, stop.requested)
        record = None
        if update % self.recipe.log_updates == 0:
            record = {"kind": "update", "update": update, "epoch": epoch, "stage": stage, "loss": sums.loss}
            record |= {"distilled": sums.distilled} if sums.distilled else {}
            record |= {"gradient_norm": self.updater.gradient_norms(), "rate": rates}
        if not np.isfinite(sums.loss) or not self.updater.apply():
            raise TrainingError(self._not_finite(parts, epoch, number, sums.loss))
        self.state.ema.update(self.model, update)
        self.state.progress.update += 1
        self.state.progress.loss_sum += sums.loss
        if record is not None:
            self._write(record)
        return sums.stop

    def _end_epoch(self, epoch: int, name: str, timing: dict[str, float]) -> None:
        """Evaluate the averaged weights, and write the epoch's record."""
        validation = self._evaluate(epoch)
        val = validation.metrics
        if self.recipe.stage_at(epoch).head == "all":  # otherwise nothing has learned from labels
            self.state.best.see(epoch, val["auroc"], self.state.ema.model, self.recipe)
        loss, self.state.progress.loss_sum = self.state.progress.loss_sum / self.batches.updates, 0.0
        stage = self.recipe.stage_at(epoch).name
        position = {"kind": "epoch", "epoch": epoch, "update": self.state.progress.update, "stage": stage}
        within = {"val_within": validation.within} if validation.within else {}
        self._write({**position, "loss": loss, "val": val, **within, "timing": timing})
        metrics = ", ".join(f"{metric} {value:.3f}" for metric, value in val.items())
        self.report(
            f"{name}: loss {loss:.4f}; val {metrics}; {timing['images_per_s']:.1f} pictures/s, "
            f"{timing['waiting_share']:.1%} of the time waiting for data"
        )
        if self.trackers:
            self._show_overlays()

    def _evaluate(self, epoch: int) -> Validation:
        """Return the averaged weights' metrics on val."""
        validation = validate(self.state.ema.model, self.run, self.processes)
        self._count_skipped(validation.unreadable, epoch)
        return validation

    def _finish(self) -> None:
        """Write the averaged weights, by which the run counts as finished, when all that `export` reads can be read."""
        epochs, last = self.state.progress.update // self.batches.updates, self.recipe.epochs - 1
        unread = unread_pictures(self.run, self.batches.shown(epochs), self.state.progress.skipped, self.processes)
        self._count_skipped(unreadable_pictures(unread, self.run, self.processes), last)
        if self.state.best.weights is not None:
            self.state.ema.model.load_state_dict(self.state.best.weights)
        val = self._evaluate(last).metrics
        if self.processes.writes:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in self.state.ema.model.state_dict().items()}
            write_atomically(self.run.weights, safetensors.torch.save(tensors))
        kept = self.state.best.epoch if self.recipe.keep == "best" else epochs - 1
        self._write({"kind": "end", "update": self.state.progress.update, "val": val, "kept_epoch": kept})
        if self.recipe.keep == "best" or self.recipe.early_stopping:
            self.report(self.state.best.remark(self.recipe, epochs))
        self.report(f"finished after {self.state.progress.update} updates: {self.run.weights}")
        self.processes.wait()

    def _save(self) -> None:
        if self.log is not None:
            document = self.state.document(self.log.sync())
            save_checkpoint(self.run.checkpoints, self.state.progress.update, document, self.recipe.keep_checkpoints)

    @property
    def _label_indices(self) -> list[int]:
        """The labels of all pictures that are drawn; 0 for those without one, which no loss reads."""
        return [*self.labels, *[0] * self.draws.unlabelled]

    def _not_finite(self, parts: list[BatchPart], epoch: int, number: int, loss: float) -> str:
        """Save the weights and the batch of an update whose loss or gradient is not finite, and return the message."""
        where = f"at update {self.state.progress.update} (epoch {epoch + 1}, update {number + 1} of it)"
        path = self.run.folder / f"not-finite-{self.state.progress.update:08d}.pt"
        if self.processes.writes:
            named_parts = [dict(zip(("cnn", "swin", "labels"), part, strict=True)) for part in parts]
            content = io.BytesIO()
            torch.save({"model": self.model.state_dict(), "parts": named_parts, "loss": loss}, content)
            write_atomically(path, content.getbuffer())
        return not_finite(loss, where, str(path))

    def _loader(self) -> DataLoader[Any]:
        views = TwoViews(self.recipe.augmentation, self.recipe.model.image_size)
        size, seed, stretch = self.recipe.model.image_size, self.recipe.seed, self.recipe.stretch
        pictures = TrainingSet(self.train_samples, self._label_indices, views, size, seed, stretch)
        workers = self.recipe.workers
        return DataLoader(
            ReplacingSet(pictures, self.draws, self.skip_unreadable),
            batch_sampler=self.batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=leave_stopping_to_the_training_process,
            pin_memory=self.processes.device.type == "cuda",
        )

    def _show_overlays(self) -> None:
        pictures = val_overlays(self.state.ema.model, self.run, self.state.progress.skipped)
        for tracker in self.trackers:
            tracker.pictures("val", self.state.progress.update, pictures)

    def _write(self, record: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(record)
        for tracker in self.trackers:
            tracker.log(record)


def _ignore(message: str) -> None:
    """Drop a message: only rank 0 reports."""
