"""Dockerfile: hadolint has no complaint, and the image is what docker-compose.yml and kubernetes.yaml take it for."""

from __future__ import annotations

import json
import re

from tests.support.deploy.tools import ROOT, run
from tests.support.programs import tool

FILE = ROOT / "Dockerfile"


def instructions(name: str) -> list[str]:
    """What follows this instruction, each time."""
    lines = re.sub(r"\\\n", " ", FILE.read_text(encoding="utf-8")).splitlines()
    return [line.split(maxsplit=1)[1] for line in lines if line.startswith(f"{name} ")]


def test_hadolint_has_no_complaint() -> None:
    assert run(tool("hadolint"), FILE) == ""


def test_it_runs_as_one_known_user_that_is_not_root() -> None:
    assert instructions("USER") == ["10001:10001"]


def test_signals_reach_the_service() -> None:
    (entrypoint,), (command,) = instructions("ENTRYPOINT"), instructions("CMD")
    assert (json.loads(entrypoint), json.loads(command)) == (["python", "-m", "app"], ["serve"])
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


def test_the_image_for_cpus_is_the_default_and_one_for_gpus_can_be_named() -> None:
    stages = instructions("FROM")
    assert {"runtime AS cpu", "runtime AS gpu"} <= set(stages)
    assert stages[-1] == "cpu"


def test_versions_are_those_that_are_tested() -> None:
    installs = [line for line in instructions("RUN") if "pip" in line and " install " in line]
    assert installs and all("-c constraints.txt" in line or "--no-deps" in line for line in installs)


def test_nothing_but_what_is_named_gets_into_the_build() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored[0] == "*"
    copied = {source for line in instructions("COPY") if "--from" not in line for source in line.split()[:-1]}
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert {name.partition("/")[0] for name in allowed} == copied
