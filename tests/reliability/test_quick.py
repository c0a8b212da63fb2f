"""What `make torture` runs for half an hour, for seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.deploy.tools import ROOT
from tests.support.programs import absent, tool


@pytest.mark.slow
@pytest.mark.parametrize("part", ["restarts", "swaps", "faults"])
def test_nothing_is_lost(part: str) -> None:
    for program in ("redis-server", "caddy", "unshare"):
        tool(program)
    if subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True).returncode:
        absent("this process may not make a network of its own (it is not root)")
    ran = subprocess.run(
        [sys.executable, "-m", "reliability", part, "--quick"], cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr[-3000:]
