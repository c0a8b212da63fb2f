"""Ray with the application, for a process that is the first of a namespace of its own: Ray listens on every address."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.deploy import loopback
from tests.support.deploy.tools import DEPLOY, ROOT

RAY = ROOT / ".venv-ray" / "bin"  # an environment of its own, since Ray brings much that nothing else wants
CONFIG = DEPLOY / "ray.yaml"
ADDRESS = "http://127.0.0.1:8000"
_HEAD, _HEAD_PORT = "127.0.0.1", "6399"  # outside the ports that Ray's workers take
_START_S = 120.0


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs: the environment of programs that use it, its address, and the log of all of them."""

    environment: dict[str, str]
    address: str
    log: Path


@contextmanager
def ray_running(environment: Mapping[str, str], cores: int = 2) -> Iterator[Cluster]:
    """A cluster of one node with this environment.

    There is one cluster in the life of a namespace. Raises RuntimeError outside of one, and CalledProcessError if the
    cluster does not start.
    """
    if os.getpid() != 1:
        raise RuntimeError("Ray is started in a namespace of its own only: see tests/support/ray/apart.py")
    loopback.up()
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short: names of sockets have a limit
    log = folder / "serve.log"
    own = {name: value for name, value in os.environ.items() if not name.startswith(("FUSIONLENS_", "RAY_"))}
    # Ray wants a token where a home has one from another cluster. Here nobody else can reach it.
    ray = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    whole = own | {"PATH": f"{RAY}{os.pathsep}{own['PATH']}"} | ray | {**environment}
    try:
        with log.open("w") as output:
            subprocess.run(_start(folder, cores), env=whole, check=True, stdout=output, stderr=output)
        yield Cluster(whole, f"{_HEAD}:{_HEAD_PORT}", log)
    finally:  # what is left of Ray ends with the namespace
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def ray_serving(
    environment: Mapping[str, str], config: Path = CONFIG, cores: int = 2, prefixes: Sequence[str] = ("",)
) -> Iterator[Path]:
    """The services at ADDRESS, once they are ready, on a cluster of one node with this environment; yields their log.

    Raises RuntimeError where the service does not start, and what `ray_running` raises.
    """
    with ray_running(environment, cores) as cluster:
        with cluster.log.open("a") as output:
            command: list[str | Path] = [RAY / "serve", "run", config]
            env = cluster.environment | {"RAY_ADDRESS": cluster.address}
            running = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output)
        until = time.monotonic() + _START_S
        while not all(map(is_ready, prefixes)):
            if running.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"serve run did not start the service:\n{cluster.log.read_text()}")
            time.sleep(0.1)
        yield cluster.log
        running.send_signal(signal.SIGINT)  # Ray ends the application as it should
        running.wait(timeout=60)


def _start(folder: Path, cores: int) -> list[str | Path]:
    where = [f"--node-ip-address={_HEAD}", f"--port={_HEAD_PORT}", f"--temp-dir={folder}"]
    sizes = [f"--num-cpus={cores}", "--object-store-memory=100000000", "--include-dashboard=false"]
    return [RAY / "ray", "start", "--head", *where, *sizes]


def is_ready(prefix: str = "") -> bool:
    """Whether the service there says that it takes clients."""
    try:
        with urllib.request.urlopen(f"{ADDRESS}{prefix}/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
