"""Several worker processes that cannot start end the service with a status and a sentence; none is tried for ever."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tests.support import served_process as process
from tests.support.bundles import write_tiny_bundle
from tests.support.redis_server import SECRET
from tests.support.waiting import PATIENCE_S

WEIGHTS = "model.safetensors"
NO_REDIS = "unix:///nowhere/redis.sock"  # none is asked before the bundle is loaded


@pytest.fixture(scope="module")
def without_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is whole, but that OpenVINO cannot run."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "without graphs")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with one wrong bit in its weights."""
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "damaged")
    content = bytearray((bundle / WEIGHTS).read_bytes())
    content[-5] ^= 1
    (bundle / WEIGHTS).write_bytes(content)
    return bundle


def serve(folder: Path, port: int, **settings: str) -> subprocess.CompletedProcess[str]:
    """Start a service of two workers that must end by itself. Raises TimeoutExpired if it does not."""
    two = {"WORKERS": "2", "METRICS": "false", "REDIS_URL": NO_REDIS, "REDIS_SECRET": SECRET} | settings
    env = process.environment(process.ROOT, **{f"FUSIONLENS_{name}": value for name, value in two.items()})
    started = subprocess.Popen(
        [*process.SERVE, "--port", str(port)],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = started.communicate(timeout=PATIENCE_S)
    finally:
        if started.poll() is None:
            started.terminate()  # not killed: its workers end with it
            started.communicate()
    return subprocess.CompletedProcess(started.args, started.returncode, out, err)


def assert_refused_before_the_port(folder: Path, sentence: str, **settings: str) -> None:
    # Somebody has the port, so that a service that opened it would say that it cannot.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = serve(folder, taken.getsockname()[1], **settings)
    assert ended.returncode == 1
    assert ended.stderr.startswith(sentence) and len(ended.stderr.splitlines()) == 1, ended.stderr
    assert ended.stdout == ""


def test_a_damaged_bundle_ends_it_before_its_port_is_open(damaged: Path, tmp_path: Path) -> None:
    assert_refused_before_the_port(tmp_path, f"fusionlens: {WEIGHTS}: its sha256 is ", BUNDLE=str(damaged))


def test_keys_that_cannot_be_read_end_it_before_its_port_is_open(tiny_bundle: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text("[[[")
    assert_refused_before_the_port(tmp_path, f"fusionlens: {keys}: ", BUNDLE=str(tiny_bundle), KEYS=str(keys))


def test_without_keys_it_does_not_serve_everyone(tiny_bundle: Path, tmp_path: Path) -> None:
    assert_refused_before_the_port(
        tmp_path, "fusionlens: Anyone who reaches 0.0.0.0 could", BUNDLE=str(tiny_bundle), HOST="0.0.0.0"
    )


def test_workers_that_cannot_load_the_engine_end_it(without_graphs: Path, tmp_path: Path) -> None:
    ended = serve(tmp_path, 0, BUNDLE=str(without_graphs), ENGINE="openvino")
    assert ended.returncode == 1
    assert ended.stderr == "fusionlens: The worker processes did not start: the log says why.\n"
    assert "has no compiled graphs: make them with fusionlens-train compile" in ended.stdout


WORKER = """
from app.server.process import create_logging_app
from app.settings import Settings
create_logging_app(Settings())
"""


def test_a_worker_whose_settings_have_become_useless_ends_with_the_status_that_ends_all(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """Its keys may be damaged after the first worker has started; uvicorn starts another after any other status."""
    from uvicorn.main import STARTUP_FAILURE  # type: ignore[attr-defined]

    keys = tmp_path / "keys.toml"
    keys.write_text("[[[")
    env = process.environment(process.ROOT, FUSIONLENS_BUNDLE=str(tiny_bundle), FUSIONLENS_KEYS=str(keys))
    command = [process.SERVE[0], "-c", WORKER]
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == STARTUP_FAILURE
    assert ended.stderr.startswith(f"fusionlens: {keys}: ") and len(ended.stderr.splitlines()) == 1
