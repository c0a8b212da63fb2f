"""Two replicas on Ray answer as one service does: `make test-ray`. Minutes; needs root, redis-server and .venv-ray."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.deploy.tools import ROOT
from tests.support.programs import absent
from tests.support.ray.apart import run_apart
from tests.support.ray.cluster import RAY
from tests.support.redis_server import SECRET

pytestmark = pytest.mark.ray_serve

PASSWORD = "not-to-be-shown"
REDIS = {"FUSIONLENS_REDIS_URL": f"redis://:{PASSWORD}@localhost", "FUSIONLENS_REDIS_SECRET": SECRET}
OPEN = {"FUSIONLENS_ALLOW_ANONYMOUS": "true"}


def build(args: str, environment: dict[str, str]) -> str:
    """What building the application as `serve run` does says at the end, or nothing. It takes no cluster."""
    if not (RAY / "python").exists():
        absent("there is no Ray in .venv-ray: `make test-ray` installs it")
    own = {name: value for name, value in os.environ.items() if not name.startswith("FUSIONLENS_")}
    command = [str(RAY / "python"), "-c", f"from app.server.ray_serve import application; application({args})"]
    ran = subprocess.run(command, cwd=ROOT, env=own | environment, text=True, capture_output=True, timeout=120)
    assert PASSWORD not in ran.stdout + ran.stderr
    return ran.stderr.strip().rpartition("\n")[2] if ran.returncode else ""


@pytest.mark.parametrize(
    ("args", "environment", "sentence"),
    [
        ("{}", OPEN, "set redis_url"),
        ("{}", REDIS | OPEN, "set metrics to false"),
        ("{'metrics': False}", REDIS, "Anyone who reaches Ray's HTTP proxy could use the service: set keys"),
        ("{'metrics': False}", {"FUSIONLENS_REDIS_URL": REDIS["FUSIONLENS_REDIS_URL"]}, "redis_url needs redis_secret"),
        ("{'store_ttl': 60}", REDIS | OPEN, "store_ttl: Extra inputs are not permitted"),
        ("{'threads': 4}", REDIS | OPEN, "threads is for Ray to decide"),
        (f"{{'redis_secret': '{PASSWORD * 3}'}}", OPEN, "Ray would show redis_secret"),
    ],
)
def test_what_several_replicas_cannot_share_or_others_could_misuse_is_refused(
    args: str, environment: dict[str, str], sentence: str
) -> None:
    assert sentence in build(args, environment)


@pytest.mark.parametrize(
    ("args", "environment"),
    [("{'metrics': False}", REDIS | OPEN), ("{'workers': 1}", OPEN), ("{'workers': 1, 'keys': 'keys.toml'}", {})],
)
def test_what_is_safe_is_built(args: str, environment: dict[str, str]) -> None:
    assert build(args, environment) == ""


def test_the_api_is_the_same_behind_two_replicas(tmp_path: Path) -> None:
    print(run_apart("tests.support.ray.suite", tmp_path, within_s=3600))  # hundreds of tests, each through Ray


def test_a_killed_replica_loses_its_own_requests_alone_and_is_replaced() -> None:
    found = json.loads(run_apart("reliability.ray_scaling", "killed").splitlines()[-1])
    assert found["lost_others"] == 0 and sum(found["lost_in_flight"]) <= sum(found["in_flight"]), found
    assert len(found["two_again_s"]) == len(found["in_flight"]) > 0, found  # each was replaced
