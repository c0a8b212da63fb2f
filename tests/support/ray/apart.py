"""A module of the tests in a namespace of its own, as the first process there, for longer than other tests take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.deploy.tools import APART, ROOT
from tests.support.programs import absent, tool
from tests.support.ray.cluster import RAY


def run_apart(module: str, *arguments: str | Path, within_s: float = 600) -> str:
    """What it prints. Its failure fails the test, with that; the test is skipped, in CI failed, where it cannot run."""
    unshare = tool(APART[0])
    if os.geteuid() != 0 or subprocess.run([unshare, *APART[1:], "true"], capture_output=True).returncode != 0:
        absent("this process may not make a network of its own (it is not root)")
    if not (RAY / "serve").exists():
        absent("there is no Ray in .venv-ray: `make test-ray` installs it")
    ran = subprocess.run(
        [unshare, *APART[1:], sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=within_s,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout
