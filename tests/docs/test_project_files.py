"""The files about the project itself: one version in all of them, and the checks of the Makefile and of CI."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from app import __version__
from scripts.check_site import ROOT
from tests.support.deploy.tools import run
from tests.support.programs import tool

TOOLS_ALONE = {"bench", "dev", "docs"}  # extras for those who work on the project: constraints.txt has their versions


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_file_has_the_same_version() -> None:
    (image,) = re.findall(r"^ARG VERSION=(.+)$", text("Dockerfile"), re.MULTILINE)
    newest = re.findall(r"^## (\d\S*)", text("CHANGELOG.md"), re.MULTILINE)[0]
    cited = yaml.safe_load(text("CITATION.cff"))
    assert (image, newest, cited["version"]) == (__version__,) * 3


def test_the_citation_has_a_date_once_the_version_is_released() -> None:
    released = f"## {__version__} (unreleased)" not in text("CHANGELOG.md")
    assert ("date-released" in yaml.safe_load(text("CITATION.cff"))) is released


def test_the_workflow_runs_ci_on_every_supported_python(project: dict[str, Any]) -> None:
    file = ROOT / ".github" / "workflows" / "ci.yml"
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", file)
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    prefix = "Programming Language :: Python :: "
    supported = [line.removeprefix(prefix) for line in project["classifiers"] if line.startswith(prefix)]
    assert job["strategy"]["matrix"]["python"] == supported
    assert "bash .ci/run" in [step.get("run") for step in job["steps"]]
    assert workflow["permissions"] == {"contents": "read"}


def test_a_commit_is_checked_as_make_lint_checks() -> None:
    (hooks,) = (repository["hooks"] for repository in yaml.safe_load(text(".pre-commit-config.yaml"))["repos"])
    lint = text("Makefile").partition("\nlint:")[2].partition("\n\n")[0]
    commands = [line.removeprefix("\t$(BIN)/").split() for line in lint.splitlines()[1:]]
    before_commits = [hook["entry"].removeprefix(".venv/bin/").split() for hook in hooks]
    assert [command[0] for command in before_commits] == [command[0] for command in commands]


def test_the_names_that_contributors_are_sent_to_are_there() -> None:
    named = re.findall(r"`(\w+)`\s+(?:in|of)\s+`([\w/]+\.py)`", text("CONTRIBUTING.md"))
    assert len(named) > 10
    assert [(name, file) for name, file in named if not re.search(rf"\b{name}\b", text(file))] == []


def test_the_oldest_versions_are_those_that_pyproject_allows(project: dict[str, Any]) -> None:
    extras = (lines for extra, lines in project["optional-dependencies"].items() if extra not in TOOLS_ALONE)
    requirements = [Requirement(line) for line in chain(project["dependencies"], *extras)]
    allowed = {
        requirement.name: str(requirement.specifier).removeprefix(">=")
        for requirement in requirements
        if requirement.name != project["name"]
    }
    lines = [line for line in text("constraints-oldest.txt").splitlines() if line and not line.startswith("#")]
    assert dict(line.split("==") for line in lines) == allowed


def test_every_direct_dependency_is_pinned(project: dict[str, Any]) -> None:
    lines = chain(project["dependencies"], *project["optional-dependencies"].values())
    direct = {normal(Requirement(line).name) for line in lines} - {project["name"]}
    pinned = {normal(line.partition("==")[0]) for line in text("constraints.txt").splitlines() if "==" in line}
    assert direct - pinned == set()


def normal(name: str) -> str:
    """A package's name as an index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
