"""A batch job on Ray, killed once and gone on with, beside the same job in one process: python -m … BUNDLE FOLDER.

The first process of a namespace of its own: see `apart.py`. Prints what it found as JSON.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.support.batch import rows_of, timeless, write_pictures, write_tar
from tests.support.deploy.tools import ROOT
from tests.support.ray.cluster import RAY, Cluster, ray_running
from tests.support.waiting import wait_until

PICTURES = 200


def main(bundle: Path, folder: Path) -> None:
    paths = write_pictures(folder / "in", PICTURES)
    paths[70].write_bytes(b"no picture")
    write_tar(folder / "shard.tar", {path.name: path.read_bytes() for path in paths[:20]})
    # Each actor has one core, so that there are two of them.
    with ray_running({"FUSIONLENS_THREADS": "1", "PYTHONPATH": str(ROOT)}) as cluster:
        alone = start(cluster, bundle, folder, folder / "alone")
        assert alone.wait() == 0
        out = folder / "out"
        killed = start(cluster, bundle, folder, out, "--ray", cluster.address)
        wait_until(lambda: list(out.glob("rows/part-*")) or killed.poll() is not None)
        workers = [process for process in psutil.process_iter() if is_of_job(process)]
        killed.kill()
        killed.wait()
        _, left = psutil.wait_procs(workers, timeout=30)
        alive = [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        parts = len(list(out.glob("rows/part-*")))
        stopped = start(cluster, bundle, folder, out, "--ray", cluster.address)
        wait_until(lambda: len(list(out.glob("rows/part-*"))) > parts or stopped.poll() is not None)
        stopped.terminate()
        stopped.wait()
        gone_on = start(cluster, bundle, folder, out, "--ray", cluster.address)
        limited = start(cluster, bundle, folder, folder / "limited", "--ray", cluster.address, "--max-failures", "0")
        found = {
            "killed": killed.returncode == -signal.SIGKILL,
            "workers": len(workers),
            "outlived": [process.pid for process in alive],
            "stopped": stopped.returncode,
            "parts_when_killed": parts,
            "parts": len(list((folder / "alone" / "rows").iterdir())),
            "gone_on": (gone_on.wait(), limited.wait()),
            "rows": len(rows_of(out)),
            "same": timeless(rows_of(out)) == timeless(rows_of(folder / "alone")),
            "log": cluster.log.read_text()[-60_000:],
        }
    print(json.dumps(found))


def start(cluster: Cluster, bundle: Path, folder: Path, out: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The job into a folder."""
    inputs: list[str | Path] = [folder / "in", folder / "shard.tar", "--part-rows", "10"]
    command: list[str | Path] = [RAY / "python", "-m", "app", "batch", "--bundle", bundle, "--out", out, *inputs]
    with cluster.log.open("a") as output:
        return subprocess.Popen([*command, *arguments], env=cluster.environment, stdout=output, stderr=output)


def is_of_job(process: psutil.Process) -> bool:
    """Whether this is an actor that writes parts, or a process that decodes for one."""
    try:
        return any(word in " ".join(process.cmdline()) for word in ("PartWriter", "app.pictures.worker"))
    except psutil.Error:
        return False


if __name__ == "__main__":
    began = time.monotonic()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
