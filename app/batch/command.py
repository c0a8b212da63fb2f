"""Runs a job from its inputs to its last row: `fusionlens batch`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from app import __version__
from app.batch.decoding import DecodingOptions
from app.batch.failures import FailureLimit
from app.batch.inputs import entries_of, is_table
from app.batch.job import ROWS, Job, JobFacts, opened_job
from app.batch.parts import Parts
from app.batch.refusals import JobEnded, JobRefused
from app.batch.rows import Columns, Row
from app.batch.stopping import Stopping
from app.batch.worker import Question, Worker
from app.errors import FusionLensError
from app.predicting.load import PredictorOptions
from app.predicting.predictor import Predictor
from app.predicting.request import HeatmapRequest
from app.progress import Steps

PATH_COLUMN = "path"  # of tables, where no other is named


@dataclass(frozen=True)
class BatchOptions:
    """What a job is to do.

    `inputs` are folders, patterns, tables, tar files and pictures. The result goes to the folder `out`. `column` is the
    one with paths in tables. `methods` are those of the heatmaps in every row, and `overlays` says whether these are
    drawn too. `coverage` is that of the prediction sets, by default the bundle's. More pictures than `max_failures`
    without an answer end the job. Each part file has `part_rows` rows.
    """

    inputs: tuple[str, ...]
    out: Path
    column: str | None
    methods: tuple[str, ...]
    overlays: bool
    coverage: float | None
    max_failures: FailureLimit | None
    part_rows: int


def run_batch(options: BatchOptions, loading: PredictorOptions, decoding: DecodingOptions) -> str:
    """Do a job, or what is left of it. Returns a sentence on its result.

    Raises JobRefused for what cannot be used, JobEnded at the limit of failures, JobInterrupted by a signal, and
    OSError if a file cannot be written.
    """
    with Stopping() as stopping:
        _check(options)
        predictor, question = _loaded(options, loading)
        column = options.column or PATH_COLUMN
        facts = _facts(options, predictor, question, decoding)
        entries = stopping.checked(entries_of(options.inputs, column))
        with opened_job(options.out, entries, facts) as job:
            columns = Columns.of(predictor.bundle.manifest, tuple(question.heatmaps), options.overlays)
            parts = Parts(job, columns.schema(), _origin(predictor))
            run = _Run(job, parts, options.max_failures, stopping)
            if missing := run.missing_parts():
                with Worker(predictor, question, decoding) as worker:
                    run.write(missing, worker)
            return run.result()


class _Run:
    """Writes the parts that a job lacks, and counts its pictures and those without an answer."""

    def __init__(self, job: Job, parts: Parts, limit: FailureLimit | None, stopping: Stopping) -> None:
        self._job, self._parts, self._limit, self._stopping = job, parts, limit, stopping
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

    def write(self, missing: list[int], worker: Worker) -> None:
        """Write some parts, in order."""
        rows: list[Row] = []
        with Steps("batch", self._job.pictures, "pictures", done=self._written, stream=sys.stderr) as steps:
            for place, row in worker.rows(self._job, missing):
                rows.append(row)
                if "error" in row:
                    self._failures += 1
                    self._check_failures(f" The last is {row['path']}: {row['error_detail']}")
                if len(rows) == self._job.rows_of(place.part):
                    self._parts.write(place.part, rows)
                    self._written += len(rows)
                    rows = []
                steps.update()
                self._stopping.check(self._written, self._job.pictures)

    def result(self) -> str:
        """A sentence on a job that is done."""
        without = f"{self._failures:,} of them without an answer" if self._failures else "all with an answer"
        return f"{self._job.pictures:,} pictures, {without}: {self._job.out / ROWS}"

    def _check_failures(self, last: str) -> None:
        if self._limit is not None and self._failures > self._limit.most(self._job.pictures):
            raise JobEnded(
                f"{self._failures:,} of {self._job.pictures:,} pictures have no answer, more than --max-failures "
                f"{self._limit.text} allows.{last} A larger limit goes on from there."
            )


def _check(options: BatchOptions) -> None:
    if options.column is not None and not any(is_table(each) for each in options.inputs):
        raise JobRefused("--column names the column of paths in a CSV or Parquet file: give one, or leave it out.")
    if options.overlays and not options.methods:
        raise JobRefused("--overlays draws heatmaps: name their methods with --explain too.")


@contextmanager
def _refusing() -> Iterator[None]:
    """What is wrong with the bundle, the engine or a question is wrong use of the command."""
    try:
        yield
    except FusionLensError as error:
        raise JobRefused(str(error)) from error


def _loaded(options: BatchOptions, loading: PredictorOptions) -> tuple[Predictor, Question]:
    """The model, and what it is asked of every picture. Raises JobRefused."""
    with _refusing():
        predictor = loading.load_predictor()
        predictor.check_coverage(options.coverage)
        accepted = [predictor.accept(HeatmapRequest(method=method)) for method in options.methods]
    by_method = {one.request.method: one for one in accepted if isinstance(one.request, HeatmapRequest)}
    return predictor, Question(by_method, options.overlays, options.coverage)


def _facts(options: BatchOptions, predictor: Predictor, question: Question, decoding: DecodingOptions) -> JobFacts:
    return JobFacts(
        folder=os.getcwd(),  # noqa: PTH109 - it is compared and joined as text
        inputs=[os.path.abspath(each) for each in options.inputs],  # noqa: PTH100
        column=options.column,
        bundle_sha256=predictor.bundle.sha256,
        methods=list(question.heatmaps),
        overlays=options.overlays,
        coverage=options.coverage,
        pictures=asdict(predictor.open_options) | {"max_bytes": decoding.picture_bytes},
        part_rows=options.part_rows,
    )


def _origin(predictor: Predictor) -> dict[str, str]:
    """What a part file says of its origin, in the metadata of its schema."""
    manifest = predictor.bundle.manifest
    facts = {
        "bundle_sha256": predictor.bundle.sha256,
        "model": f"{manifest.name} {manifest.version}",
        "engine": predictor.engine_version,
        "fusionlens": __version__,
    }
    return {"fusionlens": json.dumps(facts)}
