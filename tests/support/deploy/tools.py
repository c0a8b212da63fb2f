"""The tools that deployments are checked with, and the files that they check."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.support.programs import absent, tool

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
# A network, mounts and processes of its own, that are gone when it ends.
APART = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")


def run(*command: str | Path, **environment: str) -> str:
    """What a command prints, errors included. Its failure fails the test, with that."""
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


def run_apart(module: str, *arguments: str | Path) -> str:
    """What a module of the tests prints that runs as root in a network of its own."""
    unshare = tool(APART[0])
    if os.geteuid() != 0 or subprocess.run([unshare, *APART[1:], "true"], capture_output=True).returncode != 0:
        absent("this process may not make a network of its own (it is not root)")
    return run(unshare, *APART[1:], sys.executable, "-m", module, *arguments)


def documents(file: Path) -> list[Any]:
    """The documents of a YAML file."""
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
