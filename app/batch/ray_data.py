"""The work of a job on a cluster of Ray: actors that load the bundle once write whole part files.

All nodes must see the same files: the pictures, the bundle and the folder of the job. Ray starts a task again if its
node was lost; the part file that it writes is the same.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError

from app.batch.asked import Asked, loaded
from app.batch.decoding import DecodingOptions
from app.batch.job import Job
from app.batch.refusals import JobEnded, JobRefused
from app.batch.worker import Worker
from app.predicting.load import PredictorOptions

_MOST_BLOCKS = 1000  # in which Ray keeps the numbers of the parts


@dataclass(frozen=True)
class ActorOptions:
    """What an actor needs to make the parts of a job."""

    asked: Asked
    loading: PredictorOptions
    decoding: DecodingOptions


class PartWriter:
    """An actor. It loads the bundle once and writes the parts that Ray gives it, in the form that `Dataset.map` has."""

    def __init__(self, job: Job, options: ActorOptions) -> None:
        pinned = replace(options.loading, pinned_sha256=job.facts.bundle_sha256)
        model = loaded(options.asked, pinned)
        self._job, self._parts, self._worker = job, model.parts(job), Worker(model, options.decoding)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write the part whose number is in the row. What ends the job is told in a sentence: Ray would wrap it."""
        part = int(row["part"])
        try:
            rows = [of_picture for _, of_picture in self._worker.rows(self._job, [part])]
            self._parts.write(part, rows)
        except (JobRefused, JobEnded, OSError) as error:
            return {"part": part, "failures": 0, "fault": str(error), "is_refused": isinstance(error, JobRefused)}
        failures = sum("error" in of_picture for of_picture in rows)
        return {"part": part, "failures": failures, "fault": "", "is_refused": False}


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """A connection to the cluster at an address, whose end is also that of its actors. Raises JobRefused."""
    try:
        ray.init(address, log_to_driver=False, logging_level="error")
    except (RayError, ConnectionError, ValueError, RuntimeError) as error:
        raise JobRefused(f"There is no Ray cluster at {address} ({error}).") from error
    try:
        yield
    finally:
        ray.shutdown()


def written(job: Job, parts: Sequence[int], options: ActorOptions) -> Generator[tuple[int, int], None, None]:
    """Have the connected cluster write some parts, in any order. Yields each, with its rows without an answer.

    Every actor takes as many cores as its model. Raises JobRefused for a tar file that was changed, and JobEnded for a
    part file that cannot be written, for pictures that no process decodes any more, and if the cluster fails.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    cores = options.loading.threads
    actors = max(1, int(ray.cluster_resources().get("CPU", 1)) // cores)
    numbers = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=min(len(parts), _MOST_BLOCKS))
    results = numbers.map(
        PartWriter,
        fn_constructor_args=(job, options),
        num_cpus=cores,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
    )
    try:
        with closing(iter(results.iter_rows())) as rows:  # which ends the execution, while Ray is still connected
            for row in rows:
                if row["fault"]:
                    raise (JobRefused if row["is_refused"] else JobEnded)(row["fault"])
                yield row["part"], row["failures"]
    except RayError as error:
        raise JobEnded(f"The Ray cluster failed ({str(error).strip().splitlines()[-1]}): try again.") from error
