"""How much of the engine's speed `fusionlens batch` keeps.

python -m benchmarks.batch writes docs/measured/benchmarks-batch.md and docs/measured/benchmarks-batch.json.
`python -m scripts.measured_pages` writes the page again from the JSON, without measuring.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.batch.asked import Asked, Model, loaded
from app.batch.decoding import DecodingOptions
from app.batch.inputs import entries_of
from app.batch.job import JobFacts, opened_job
from app.batch.worker import Worker
from app.options import predictor_options
from app.pictures.opened import open_picture
from app.predicting.prediction import Upload
from app.serving.stores.redis import to_bytes
from app.settings import Settings
from benchmarks.cases import DEMO, RANDOM, demo_case, random_case
from benchmarks.timing import interleaved, median_ratio
from training.data.draw import draw_lesion

DOCS = Path(__file__).parents[1] / "docs" / "measured"
PICTURES, ROUNDS, SIDES_PX = 100, 5, (224, 600)
ALONE, JOB = "engine alone", "job"
GOAL = 0.95
HEAD = """# Batch jobs

`python -m benchmarks.batch` writes this page and [benchmarks-batch.json](benchmarks-batch.json). The engine alone
classifies pictures that were decoded before, with as many passes at once as it uses the machine best with. The job
reads and decodes {pictures} JPEG files, classifies them, and writes their rows. Both take turns for {rounds} rounds on
{cores} cores, after a warm-up, and neither counts the loading of the model. The share is the median of the rounds'.

What decoding takes of the cores is lost to the model, since both need the same ones. The last column but one is the
share that would be left if a job did nothing besides. The rest goes to the answers' trust part, to rows and files, and
to messages between processes.

| model | side, px | engine alone, pictures/s | job, pictures/s | decoding, ms of a core | left by it | share |
| --- | --: | --: | --: | --: | --: | --- |
"""


def measure(folder: Path) -> dict[str, Any]:
    """Times of both for both models and every size of picture."""
    found: dict[str, Any] = {}
    for case in (random_case(folder), demo_case(folder)):
        settings = Settings(bundle=case.bundle, cache=case.cache)
        model = loaded(Asked((), overlays=False, coverage=None), predictor_options(settings))
        found[case.name] = {
            str(side_px): _measured(model, settings, _drawn(folder / str(side_px), side_px)) for side_px in SIDES_PX
        }
    return {"pictures": PICTURES, "rounds": ROUNDS, "cores": len(os.sched_getaffinity(0)), "cases": found}


def _drawn(folder: Path, side_px: int) -> Path:
    """A folder of JPEG files of this size, which is filled once."""
    if not folder.exists():
        folder.mkdir()
        for number in range(PICTURES):
            image = draw_lesion(np.random.default_rng(number), "malignant", side_px).image
            Image.fromarray(image).save(folder / f"{number:04d}.jpg", quality=90)
    return folder


def _measured(model: Model, settings: Settings, folder: Path) -> dict[str, Any]:
    files = [file.read_bytes() for file in sorted(folder.iterdir())]
    uploads = [model.predictor.open(file) for file in files]
    options = DecodingOptions(
        settings.decoders, settings.decoder_max_bytes, settings.decoder_cpu_s, settings.max_body_bytes
    )
    with Worker(model, options) as worker:
        row_bytes = _do_job(model, worker, folder) / PICTURES
        times = interleaved(
            {ALONE: lambda: _classify(model, uploads), JOB: lambda: _do_job(model, worker, folder)}, ROUNDS, warmups=0
        )
    return {
        "picture_bytes": sum(map(len, files)) / PICTURES,
        "stored_bytes": len(to_bytes(model.predictor.predict(uploads[0])[0], "owner", 0)),
        "row_bytes": row_bytes,
        "decoding_ms": _decoding_ms(model, files),
        "per_s": {name: PICTURES / one.median_ms * 1e3 for name, one in times.items()},
        "share": median_ratio(times[ALONE], times[JOB]),
    }


def _classify(model: Model, uploads: list[Upload]) -> None:
    engine = model.predictor.engine
    batches = [uploads[first : first + engine.batch_size] for first in range(0, len(uploads), engine.batch_size)]
    with ThreadPoolExecutor(engine.concurrency) as threads:
        for _ in threads.map(model.predictor.predict_batch, batches):
            pass


def _do_job(model: Model, worker: Worker, folder: Path) -> int:
    """From the first file that is read to the last row that is written. Returns the bytes of the rows."""
    facts = JobFacts("/", [str(folder)], None, model.predictor.bundle.sha256, [], False, None, {}, 256)
    with (
        tempfile.TemporaryDirectory() as out,
        opened_job(Path(out), entries_of([str(folder.absolute())], "path"), facts) as job,
    ):
        parts, rows = model.parts(job), []
        for place, row in worker.rows(job, range(job.parts)):
            rows.append(row)
            if len(rows) == job.rows_of(place.part):
                parts.write(place.part, rows)
                rows = []
        return sum(parts.path(part).stat().st_size for part in range(job.parts))


def _decoding_ms(model: Model, files: list[bytes]) -> float:
    """The processor time that opening one of these files takes."""
    began_s = os.times()
    for file in files:
        open_picture(file, model.open_options)
    ended_s = os.times()
    return (ended_s.user + ended_s.system - began_s.user - began_s.system) * 1e3 / len(files)


def page(raw: Mapping[str, Any]) -> str:
    """The report, in Markdown."""
    text = HEAD.format(**raw)
    for name in (RANDOM, DEMO):
        for side_px, found in raw["cases"][name].items():
            share, model_ms = found["share"], raw["cores"] / found["per_s"][ALONE] * 1e3
            left = model_ms / (model_ms + found["decoding_ms"])
            reached = "reached" if share >= GOAL else "**missed**"
            text += (
                f"| {name} | {side_px} | {found['per_s'][ALONE]:.1f} | {found['per_s'][JOB]:.1f} "
                f"| {found['decoding_ms']:.1f} | {left:.2f} | {share:.2f} (≥ {GOAL}: {reached}) |\n"
            )
    return text


def read_page(folder: Path) -> str:
    """The page that `benchmarks-batch.json` in `folder` gives."""
    return page(json.loads((folder / "benchmarks-batch.json").read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for the report (default docs/measured/)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw = json.dumps(measure(Path(folder)), indent=1)
    (args.out / "benchmarks-batch.json").write_text(raw + "\n", encoding="utf-8")
    text = read_page(args.out)
    (args.out / "benchmarks-batch.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
