"""`fusionlens serve` as a user starts it: another process, its output, its requests, its end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
SERVE = (sys.executable, "-m", "app", "serve")


@dataclass(frozen=True)
class Served:
    """A service that has printed its address. `curl_lines` are the commands that it suggests."""

    process: subprocess.Popen[str]
    address: str
    curl_lines: tuple[str, ...]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """Send the signal. Returns the exit status and standard error. Raises TimeoutExpired if it does not end."""
        self.process.send_signal(number)
        error_output = self.process.communicate(timeout=PATIENCE_S)[1]
        return self.process.returncode, error_output


def environment(*python_path: Path, **settings: str) -> dict[str, str]:
    """This process's environment, but: no settings of the service but these, these import paths, one thread.

    Nobody reads what the service prints while it runs, so it logs no requests, if that is not asked for.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("FUSIONLENS_")}
    return (
        own
        | {"PYTHONPATH": os.pathsep.join(map(str, python_path)), "OMP_NUM_THREADS": "1", "FUSIONLENS_LOG": "off"}
        | settings
    )


@contextmanager
def serving(folder: Path, env: dict[str, str], *arguments: str, files: int | None = None) -> Iterator[Served]:
    """Start the service in `folder` on a free port and wait until it listens; it is gone afterwards.

    It may open no more than so many `files`. It has a process group of its own.
    """
    limited = [] if files is None else ["prlimit", f"--nofile={files}:{files}"]
    process = subprocess.Popen(
        [*limited, *SERVE, "--port", "0", *arguments],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    try:
        yield _announced(process)
    finally:
        process.kill()
        process.communicate()


def _announced(process: subprocess.Popen[str]) -> Served:
    assert process.stdout is not None and process.stderr is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith('{"address"'):
            return Served(process, json.loads(line)["address"], ())
        curl_lines = tuple(said for said in lines if said.startswith("curl "))
        if line.isspace() and curl_lines:
            found = re.search(r"http://\S+", "\n".join(lines))
            assert found, lines
            return Served(process, found.group(), curl_lines)
    raise AssertionError(f"the service did not start: {lines} {process.stderr.read()}")
