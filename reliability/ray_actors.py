"""How fast a batch job is on Ray with one and with two actors of one core each: python -m reliability.ray_actors.

Needs root and .venv-ray (`make test-ray` makes it). Both clusters do the same job in turns, and the median counts. The
time is that from the first file of rows to the last, without the start of Ray and the loading of the model.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from app.files import DEMO_BUNDLE
from tests.support.batch import write_pictures
from tests.support.deploy.tools import ROOT
from tests.support.ray.apart import run_apart
from tests.support.ray.cluster import RAY, ray_running

PICTURES, PART_ROWS, ROUNDS = 600, 20, 3


def main() -> None:
    """Print the pictures per second, and their ratio, as JSON."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder) / "in", PICTURES)
        for number in range(ROUNDS):
            for actors, found in rates.items():
                found.append(float(run_apart(__spec__.name, folder, str(actors), str(number)).splitlines()[-1]))
    medians = {actors: statistics.median(found) for actors, found in rates.items()}
    print(json.dumps({"pictures_per_s": rates, "median": medians, "ratio": medians[2] / medians[1]}, indent=1))


def measured(folder: Path, actors: int, number: int) -> float:
    """The pictures per second of one job on a cluster with so many cores, for the first process of a namespace."""
    out = folder / f"out-{actors}-{number}"
    with ray_running({"FUSIONLENS_THREADS": "1", "PYTHONPATH": str(ROOT)}, cores=actors) as cluster:
        command: list[str | Path] = [RAY / "python", "-m", "app", "batch", folder / "in", "--bundle", DEMO_BUNDLE]
        command += ["--out", out, "--part-rows", str(PART_ROWS), "--ray", cluster.address]
        subprocess.run(command, env=cluster.environment, check=True, stdout=subprocess.DEVNULL)
    files = sorted((out / "rows").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    rows = sum(int(pq.read_metadata(file).num_rows) for file in files[1:])
    return rows / (files[-1].stat().st_mtime_ns - files[0].stat().st_mtime_ns) * 1e9


if __name__ == "__main__":
    if arguments := sys.argv[1:]:
        print(measured(Path(arguments[0]), int(arguments[1]), int(arguments[2])))
    else:
        main()
