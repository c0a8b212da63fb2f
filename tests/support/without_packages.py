"""Processes of their own in which packages are hidden, as where they are not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.served_process import ROOT, environment


def without(*packages: str) -> str:
    """What Python runs at its start, as `sitecustomize`, to find none of these packages."""
    return f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {packages!r}:
            return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


NO_TORCH = without("torch", "torchvision", "timm")


def started_with(code: str, folder: Path, **settings: str) -> dict[str, str]:
    """The environment of a Python that runs the code at its start."""
    (folder / "start").mkdir()
    (folder / "start" / "sitecustomize.py").write_text(code)
    return environment(folder / "start", ROOT, **settings)


def app(env: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command fusionlens with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=120
    )
