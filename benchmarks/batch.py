"""How much of the engine's speed `fusionlens batch` keeps: python -m benchmarks.batch FOLDER [BUNDLE].

The engine alone classifies arrays that were decoded before. The job reads and decodes files, classifies them and writes
rows. Both take turns, so that a change of the machine's speed meets both, and neither counts the loading of the model.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.batch.asked import Asked, Model, loaded
from app.batch.decoding import DecodingOptions
from app.batch.inputs import entries_of
from app.batch.job import JobFacts, opened_job
from app.batch.worker import Worker
from app.options import predictor_options
from app.predicting.prediction import Upload
from app.settings import Settings

_TURNS = 5


def main(folder: Path, bundle: Path | None) -> None:
    """Print pictures per second of both, turn by turn, and the median of the shares."""
    settings = Settings() if bundle is None else Settings(bundle=bundle)
    model = loaded(Asked((), False, None), predictor_options(settings))
    files = sorted(file for file in folder.iterdir() if file.is_file())
    uploads = [model.predictor.open(file.read_bytes()) for file in files]
    _engine_s(model, uploads)  # compiles the graph for concurrent calls
    time.sleep(2)
    shares = []
    for _ in range(_TURNS):
        alone_s, whole_s = _engine_s(model, uploads), _job_s(model, settings, folder)
        shares.append(alone_s / whole_s)
        rates = f"{len(files) / alone_s:.2f}/s alone, {len(files) / whole_s:.2f}/s as a job"
        print(f"{rates}: {shares[-1]:.3f}", flush=True)
    print(f"median {statistics.median(shares):.3f} of {len(files)} pictures, {_TURNS} turns")


def _engine_s(model: Model, uploads: list[Upload]) -> float:
    """How long the engine takes for decoded pictures, with as many calls at once as it uses the machine best with."""
    engine, began = model.predictor.engine, time.perf_counter()
    batches = [uploads[first : first + engine.batch_size] for first in range(0, len(uploads), engine.batch_size)]
    with ThreadPoolExecutor(engine.concurrency) as threads:
        for _ in threads.map(model.predictor.predict_batch, batches):
            pass
    return time.perf_counter() - began


def _job_s(model: Model, settings: Settings, folder: Path) -> float:
    """How long a job takes for the files, from the first one that is read to the last row that is written."""
    options = DecodingOptions(
        settings.decoders, settings.decoder_max_bytes, settings.decoder_cpu_s, settings.max_body_bytes
    )
    facts = JobFacts("/", [str(folder)], None, model.predictor.bundle.sha256, [], False, None, {}, 256)
    entries = entries_of([str(folder.absolute())], "path")
    with (
        tempfile.TemporaryDirectory() as out,
        Worker(model, options) as worker,
        opened_job(Path(out), entries, facts) as job,
    ):
        parts, rows = model.parts(job), []
        began = time.perf_counter()
        for place, row in worker.rows(job, range(job.parts)):
            rows.append(row)
            if len(rows) == job.rows_of(place.part):
                parts.write(place.part, rows)
                rows = []
        return time.perf_counter() - began


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
