"""How many cores this process takes itself to have: those that the system lets it use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.engines.cpu import available_cores
from tests.support.served_process import ROOT, environment

CONTAINER_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def test_there_is_a_core_and_there_are_no_more_than_the_machine_has() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="SKIPPED LOUDLY: no scheduler affinity here")
def test_a_process_that_is_bound_to_one_core_has_one() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from app.engines.cpu import available_cores; print(available_cores())"
    )
    ran = subprocess.run([sys.executable, "-c", code], env=environment(ROOT), capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "1\n"), ran.stderr


@pytest.mark.skipif(not CONTAINER_LIMIT.exists(), reason="SKIPPED LOUDLY: not in a container of cgroup v2")
def test_a_containers_limit_is_kept() -> None:
    quota, period = CONTAINER_LIMIT.read_text().split()
    if quota == "max":
        pytest.skip("SKIPPED LOUDLY: this container has no limit")
    assert available_cores() < int(quota) / int(period) + 1
