"""How the suite is split: into kinds of test, and into groups that run in one process, by as many as fit here."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from app.engines.cpu import available_cores

KINDS = ("browser", "integration", "unit")  # by what a file of them takes, longest first
_MEMORY = Path("/proc/meminfo")
_WORKER_BYTES = 1_500_000_000  # torch, OpenVINO, the models of a few files, and the services that they start
# Folders whose tests are of several parts together: services, other processes and programs, training runs. A browser's
# are in `web`. What is in no folder starts the commands.
_INTEGRATION = {"api", "batch", "benchmarks", "client", "deploy", "engines", "ray", "reliability", "serving"}
_INTEGRATION |= {"evaluation", "export", "heatmaps", "loop", "runs"}


def kind_of(file: PurePath) -> str:
    """The mark of the tests in a file, given from `tests` on: unit, integration or browser."""
    if "web" in file.parts:
        return "browser"
    return "integration" if len(file.parts) == 1 or _INTEGRATION & {*file.parts} else "unit"


class ByGroup(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """Gives a worker the tests of a file, which share its fixtures, or all of the browser's, which share that.

    Each export of the matrix is a group of its own.
    Groups go out in the order of collection, so that short ones are left for the end.
    """

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        if self.config.option.markexpr == "matrix":
            return nodeid
        file = PurePath(nodeid.partition("::")[0])
        return "browser" if kind_of(file.relative_to("tests")) == "browser" else str(file)


def worker_processes() -> int:
    """How many are useful and fit into memory: one more than there are cores, since tests wait too. At least one."""
    return max(1, min(available_cores() + 1, _available_bytes() // _WORKER_BYTES))


def _available_bytes() -> int:
    """Memory that new processes can have without swapping; as much as one could wish where that is not known."""
    if not _MEMORY.exists():
        return 1 << 62
    figures = dict(line.split(":") for line in _MEMORY.read_text().splitlines())
    return int(figures["MemAvailable"].split()[0]) * 1024
