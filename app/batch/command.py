"""Runs a job from its inputs to its last row: `fusionlens batch`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from app.batch.asked import Asked, Model, loaded
from app.batch.decoding import DecodingOptions
from app.batch.failures import FailureLimit
from app.batch.inputs import entries_of, is_table
from app.batch.job import ROWS, Job, JobFacts, opened_job
from app.batch.parts import Parts
from app.batch.refusals import JobEnded, JobRefused
from app.batch.rows import Row
from app.batch.stopping import Stopping
from app.batch.worker import Place, Worker
from app.predicting.load import PredictorOptions
from app.progress import Steps

PATH_COLUMN = "path"  # of tables, where no other is named


@dataclass(frozen=True)
class BatchOptions:
    """What a job is to do.

    `inputs` are folders, patterns, tables, tar files and pictures. The result goes to the folder `out`. `column` is the
    one with paths in tables. More pictures than `max_failures` without an answer end the job. Each part file has
    `part_rows` rows. `ray` is the address of a cluster that does the work, in place of this process.
    """

    inputs: tuple[str, ...]
    out: Path
    column: str | None
    asked: Asked
    max_failures: FailureLimit | None
    part_rows: int
    ray: str | None


def run_batch(options: BatchOptions, loading: PredictorOptions, decoding: DecodingOptions) -> str:
    """Do a job, or what is left of it. Returns a sentence on its result.

    Raises JobRefused for what cannot be used, JobEnded at a limit such as that of failures, JobInterrupted by a signal,
    and OSError if a file cannot be written.
    """
    _check(options)
    with Stopping() as stopping:
        model = loaded(options.asked, loading)
        entries = stopping.checked(
            entries_of(options.inputs, options.column or PATH_COLUMN), "while its pictures were listed"
        )
        with opened_job(options.out, entries, _facts(options, model, decoding)) as job:
            run = _Run(job, model.parts(job), options.max_failures, stopping)
            if missing := run.missing_parts():
                if options.ray is None:
                    with Worker(model, decoding) as worker:
                        run.write(worker.rows(job, missing))
                else:
                    _write_on_ray(options, loading, decoding, job, run, missing)
            return run.result()


def _write_on_ray(
    options: BatchOptions,
    loading: PredictorOptions,
    decoding: DecodingOptions,
    job: Job,
    run: _Run,
    missing: list[int],
) -> None:
    from app.batch.ray_data import ActorOptions, cluster, written  # imported here because Ray is optional

    assert options.ray is not None
    actors = ActorOptions(options.asked, loading, decoding)
    with cluster(options.ray), closing(written(job, missing, actors)) as parts:
        run.stopping.listen()  # Ray has a handler of its own
        run.follow(parts)


class _Run:
    """Writes the parts that a job lacks, and counts its pictures and those without an answer."""

    def __init__(self, job: Job, parts: Parts, limit: FailureLimit | None, stopping: Stopping) -> None:
        self._job, self._parts, self._limit, self.stopping = job, parts, limit, stopping
        self._written = self._failures = 0

    def missing_parts(self) -> list[int]:
        """The parts that are not written yet. Raises JobEnded if those that are have too many failures already."""
        missing = []
        for part in range(self._job.parts):
            if (failures := self._parts.failures(part)) is None:
                missing.append(part)
            else:
                self._written += self._job.rows_of(part)
                self._failures += failures
        self._check_failures("")
        return missing

    def write(self, placed: Iterable[tuple[Place, Row]]) -> None:
        """Write the parts that some rows make, which come in order. Raises JobEnded, JobInterrupted and OSError."""
        rows: list[Row] = []
        with self._steps() as steps:
            for place, row in placed:
                rows.append(row)
                if "error" in row:
                    self._failures += 1
                    self._check_failures(f" The last is {row['path'] or 'a row of a table'}: {row['error_detail']}")
                if len(rows) == self._job.rows_of(place.part):
                    self._parts.write(place.part, rows)
                    self._written += len(rows)
                    rows = []
                steps.update()
                self._check_signal()

    def follow(self, written: Iterable[tuple[int, int]]) -> None:
        """Count parts that others write, each with its failures. Raises JobEnded and JobInterrupted."""
        with self._steps() as steps:
            for part, failures in written:
                self._failures += failures
                self._written += self._job.rows_of(part)
                self._check_failures("")
                steps.update(self._job.rows_of(part))
                self._check_signal()

    def result(self) -> str:
        """A sentence on a job that is done."""
        without = f"{self._failures:,} of them without an answer" if self._failures else "all with an answer"
        return f"{self._job.pictures:,} pictures, {without}: {self._job.out / ROWS}"

    def _check_signal(self) -> None:
        self.stopping.check(f"after {self._written:,} of {self._job.pictures:,} pictures")

    def _steps(self) -> Steps:
        return Steps("batch", self._job.pictures, "pictures", done=self._written, stream=sys.stderr)

    def _check_failures(self, last: str) -> None:
        if self._limit is not None and self._failures > self._limit.most(self._job.pictures):
            raise JobEnded(
                f"{self._failures:,} of {self._job.pictures:,} pictures have no answer, more than --max-failures "
                f"{self._limit.text} allows.{last} A larger limit goes on from there."
            )


def _check(options: BatchOptions) -> None:
    if options.column is not None and not any(is_table(each) for each in options.inputs):
        raise JobRefused("--column names the column of paths in a CSV or Parquet file: give one, or leave it out.")
    if options.asked.overlays and not options.asked.methods:
        raise JobRefused("--overlays draws heatmaps: name their methods with --explain too.")


def _facts(options: BatchOptions, model: Model, decoding: DecodingOptions) -> JobFacts:
    """What pins the job that is asked for."""
    return JobFacts(
        folder=os.getcwd(),  # noqa: PTH109 - a text, as in the file
        inputs=[os.path.abspath(each) for each in options.inputs],  # noqa: PTH100
        column=options.column,
        bundle_sha256=model.predictor.bundle.sha256,
        methods=list(model.heatmaps),
        overlays=options.asked.overlays,
        coverage=options.asked.coverage,
        pictures=asdict(model.open_options) | {"max_bytes": decoding.picture_bytes},
        part_rows=options.part_rows,
    )
