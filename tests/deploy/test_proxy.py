"""deploy/Caddyfile: Caddy itself reads it, and does with it what it is there for."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.deploy.tools import DEPLOY, run, run_apart
from tests.support.programs import absent, tool

FILE = DEPLOY / "Caddyfile"
PROXIED = "tests.support.deploy.proxied"
pytestmark = pytest.mark.slow
LEAST = (2, 11, 4)  # before, a body that no replica could be connected for was lost to the next one


@pytest.fixture(scope="module")
def caddy() -> str:
    """Caddy, if it is recent enough for the file."""
    program = tool("caddy")
    version = run(program, "version")
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", version)
    if not found or tuple(map(int, found.groups())) < LEAST:
        absent(f"the Caddyfile needs Caddy {'.'.join(map(str, LEAST))}, here is {version.strip()}")
    return program


def test_caddy_takes_the_file_for_valid_and_well_formed(caddy: str, tmp_path: Path) -> None:
    assert "Valid configuration" in run(caddy, "validate", "--config", FILE, XDG_DATA_HOME=str(tmp_path))
    formatted = subprocess.run([caddy, "fmt", FILE], capture_output=True, text=True, timeout=60)
    assert formatted.stdout == FILE.read_text()


def test_nothing_can_be_changed_from_outside(caddy: str) -> None:
    adapted = json.loads(run(caddy, "adapt", "--config", FILE, "--adapter", "caddyfile").splitlines()[-1])
    assert adapted["admin"] == {"disabled": True}


def test_the_site_is_what_a_variable_says(caddy: str) -> None:
    assert '"lens.example.org"' in run(caddy, "adapt", "--config", FILE, FUSIONLENS_SITE="lens.example.org")


def test_requests_reach_replicas_and_survive_the_loss_of_one(caddy: str, tmp_path: Path) -> None:
    print(run_apart(f"{PROXIED}.traffic", caddy, FILE, tmp_path))


def test_a_request_that_kills_a_replica_kills_one(caddy: str, tmp_path: Path) -> None:
    print(run_apart(f"{PROXIED}.deaths", caddy, FILE, tmp_path))


def test_no_spelling_of_a_path_gets_inside(caddy: str, tmp_path: Path, tiny_bundle: Path) -> None:
    print(run_apart(f"{PROXIED}.inside", caddy, FILE, tmp_path, tiny_bundle))


def test_a_refusal_before_the_body_arrives(caddy: str, tmp_path: Path, tiny_bundle: Path) -> None:
    print(run_apart(f"{PROXIED}.refused", caddy, FILE, tmp_path, tiny_bundle))


def test_no_secret_gets_into_a_log(caddy: str, tmp_path: Path) -> None:
    print(run_apart(f"{PROXIED}.logged", caddy, FILE, tmp_path))
