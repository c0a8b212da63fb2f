"""The torch engine and training on a device that is not the CPU, in processes of their own.

torch counts its devices at the first backward pass of a process, so that the second one must be known before it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("file", ["on_engine.py", "on_training.py"])
def test_nothing_is_mixed_and_nothing_is_left_behind(file: str, tmp_path: Path) -> None:
    # It is no worker of the process that runs this test, if there is one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    options = ["-q", "-n0", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'its'}"]
    command = [sys.executable, "-m", "pytest", *options, str(Path(__file__).with_name(file))]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0 and " passed" in ran.stdout, ran.stdout + ran.stderr
