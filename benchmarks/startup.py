"""What does not depend on a running service: the first prediction of a process, an installation, the machine."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.models import Case
from benchmarks.servers import environment
from benchmarks.timing import Times, interleaved

ROOT = Path(__file__).parents[1]


def start_times(case: Case, rounds: int) -> dict[str, Times]:
    """`fusionlens predict PICTURE --gradcam OUT` with each engine in turn, from process start to its end.

    The rounds that do not count leave the compiled graphs in the cache and the modules compiled.
    """
    engines = ("openvino", "torch")
    with tempfile.TemporaryDirectory() as folder:
        return interleaved({engine: _command(case, engine, Path(folder)) for engine in engines}, rounds, warmups=1)


def _command(case: Case, engine: str, folder: Path) -> Callable[[], object]:
    env = environment({"FUSIONLENS_ENGINE": engine, "FUSIONLENS_CACHE": str(case.cache)})
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its modules compiled
    overlay = str(folder / f"{engine}.png")
    predict = ("predict", str(case.picture), "--bundle", str(case.bundle), "--gradcam", overlay, "--method", "gradcam")
    return lambda: subprocess.run([sys.executable, "-m", "app", *predict], env=env, check=True, capture_output=True)


def installed_mb() -> float:
    """Disk that a fresh environment with the base package takes, pip included, in MB. Asks the package index."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(ROOT)], check=True)
        return sum(file.lstat().st_blocks * 512 for file in Path(folder).rglob("*")) / 1e6


def busy_share(seconds: float = 3.0) -> float:
    """The part of all cores' time that is in use, 0 to 1: before a run it should be next to nothing. Linux only."""
    began = _core_times()
    time.sleep(seconds)
    idle, every = (after - before for before, after in zip(began, _core_times(), strict=True))
    return 1 - idle / every


def _core_times() -> tuple[int, int]:
    """Idle and all time of the cores since the start of the machine, in ticks."""
    ticks = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)
