"""From nothing: how long the first explained prediction takes, and how much disk an installation."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.models import Case
from benchmarks.servers import environment
from benchmarks.timing import Times, interleaved

ROOT = Path(__file__).parents[1]


def start_times(case: Case, rounds: int) -> dict[str, Times]:
    """`python -m app predict PICTURE --gradcam OUT` with each engine in turn, from process start to its end.

    The rounds that do not count leave the compiled graphs in the cache and the modules compiled.
    """
    engines = ("openvino", "torch")
    with tempfile.TemporaryDirectory() as folder:
        return interleaved({engine: _command(case, engine, Path(folder)) for engine in engines}, rounds, warmups=1)


def _command(case: Case, engine: str, folder: Path) -> Callable[[], object]:
    env = environment({"FUSIONLENS_ENGINE": engine, "FUSIONLENS_CACHE": str(case.cache)})
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its modules compiled
    overlay = str(folder / f"{engine}.png")
    predict = ("predict", str(case.picture), "--bundle", str(case.bundle), "--gradcam", overlay)
    return lambda: subprocess.run([sys.executable, "-m", "app", *predict], env=env, check=True, capture_output=True)


def installed_mb() -> float:
    """Disk that a fresh environment with the base package takes, pip included, in MB. Asks the package index."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(ROOT)], check=True)
        return sum(file.lstat().st_blocks * 512 for file in Path(folder).rglob("*")) / 1e6
