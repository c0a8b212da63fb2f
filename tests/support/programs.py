"""Programs that tests want: without one, a test is skipped loudly, but in CI, which installs them, it fails."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest


def tool(name: str) -> str:
    """The path of a program. Without it the test is skipped, but in CI it fails."""
    found = shutil.which(name, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    return found or absent(f"{name} is not installed")


def absent(reason: str) -> str:
    """Skip the test, or fail it in CI, since something to test with is not there."""
    if os.environ.get("CI") in ("1", "true"):
        pytest.fail(f"{reason}, and CI has to test with it")
    pytest.skip(f"SKIPPED LOUDLY: {reason}")
