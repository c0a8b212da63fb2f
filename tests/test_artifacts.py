"""What tests build once: nothing stale or damaged is ever taken for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import artifacts
from tests.support.artifacts import build_once, sources_of

BUILDER = """
import parts.wall
from parts import paint

def build(folder, *arguments):
    with open({log!r}, "a") as log:
        log.write("built\\n")
    (folder / "inside").mkdir(parents=True)
    (folder / "inside" / "house").write_text(f"{{parts.wall.STONE}} {{paint.colour()}} {{arguments}}")
"""
PAINT = "def colour():\n    from parts.pots import red\n    return red.NAME\n"


@dataclass
class Project:
    """A project of a builder and what it imports, whose files are older than this process."""

    root: Path
    builds: int = 0

    def write(self, name: str, content: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        os.utime(path, (1e9, 1e9))

    def house(self, *arguments: object) -> str:
        """The artifact that another process would get now. Its copy is spoilt afterwards."""
        for name in [name for name in sys.modules if name.partition(".")[0] in ("builder", "parts")]:
            del sys.modules[name]
        artifacts._modules_from.cache_clear()
        self.builds += 1
        house = build_once("builder:build", self.root / f"copy-{self.builds}", *arguments) / "inside" / "house"
        content = house.read_text()
        house.write_text("spoilt")
        return content

    def times_built(self) -> int:
        return len((self.root / "log").read_text().splitlines())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(artifacts, "ROOT", tmp_path)
    monkeypatch.setattr(artifacts, "FOLDER", tmp_path / "artifacts")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it is told apart by the time of writing, which is set here
    monkeypatch.syspath_prepend(tmp_path)
    project = Project(tmp_path)
    project.write("builder.py", BUILDER.format(log=str(tmp_path / "log")))
    project.write("parts/__init__.py", "")
    project.write("parts/wall.py", "STONE = 'granite'")
    project.write("parts/paint.py", PAINT)
    project.write("parts/pots/__init__.py", "")
    project.write("parts/pots/red.py", "NAME = 'red'")
    project.write("parts/pots/shades.txt", "crimson")
    project.write("elsewhere/shed.py", "")
    return project


def test_an_artifact_is_built_once_and_each_of_its_users_has_a_copy(project: Project) -> None:
    assert [project.house() for _ in range(3)] == ["granite red ()"] * 3
    assert project.times_built() == 1


def test_other_arguments_are_another_artifact(project: Project) -> None:
    assert project.house("tall", 3) == "granite red ('tall', 3)"
    assert project.house("tall", 4) == "granite red ('tall', 4)"
    assert project.house("tall", 3) == "granite red ('tall', 3)"
    assert project.times_built() == 2


@pytest.mark.parametrize(
    ("file", "content", "house"),
    [
        ("parts/wall.py", "STONE = 'brick'", "brick red ()"),
        ("parts/pots/red.py", "NAME = 'scarlet'", "granite scarlet ()"),
        ("parts/__init__.py", "# more", "granite red ()"),
        ("parts/pots/shades.txt", "vermilion", "granite red ()"),
    ],
    ids=["imported", "imported by what is imported", "a package", "data"],
)
def test_a_change_of_what_it_is_made_from_builds_it_anew(project: Project, file: str, content: str, house: str) -> None:
    assert project.house() == "granite red ()"
    project.write(file, content)
    assert project.house() == house
    assert project.times_built() == 2
    project.write("elsewhere/shed.py", "# nothing of it")
    assert project.house() == house
    assert project.times_built() == 2


def test_other_packages_build_it_anew(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.house()
    monkeypatch.setattr(artifacts, "_surroundings", lambda: "torch of tomorrow")
    assert project.house() == "granite red ()"
    assert project.times_built() == 2


def test_a_change_while_tests_run_is_not_kept(project: Project) -> None:
    project.house()
    (project.root / "parts" / "wall.py").write_text("STONE = 'marble'")
    assert [project.house(), project.house()] == ["marble red ()"] * 2
    assert project.times_built() == 3


DAMAGES: dict[str, Callable[[Path], object]] = {
    "another byte": lambda artifact: (artifact / "files" / "inside" / "house").write_text("granite rad ()"),
    "a file that is gone": lambda artifact: (artifact / "files" / "inside" / "house").unlink(),
    "a file more": lambda artifact: (artifact / "files" / "more").write_text(""),
    "no checksums": lambda artifact: (artifact / "checksums.json").unlink(),
    "torn checksums": lambda artifact: (artifact / "checksums.json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_artifact_is_built_anew(project: Project, damage: Callable[[Path], object]) -> None:
    project.house()
    [artifact] = [path for path in artifacts.FOLDER.iterdir() if path.is_dir()]
    damage(artifact)
    assert [project.house(), project.house()] == ["granite red ()"] * 2
    assert project.times_built() == 2


def test_a_builder_that_fails_leaves_nothing_behind(project: Project) -> None:
    project.write("parts/wall.py", "raise ValueError('no stones')")
    with pytest.raises(ValueError, match="no stones"):
        project.house()
    assert not [path for path in artifacts.FOLDER.iterdir() if path.is_dir()]


def test_what_no_run_has_used_for_a_week_goes(project: Project) -> None:
    project.house()
    for path in artifacts.FOLDER.iterdir():
        os.utime(path, (1e9, 1e9))
    project.house("another")
    assert len([path for path in artifacts.FOLDER.iterdir() if path.is_dir()]) == 1


def test_a_bundles_sources_are_those_of_its_model_its_graphs_and_its_files() -> None:
    sources = {str(path.relative_to(artifacts.ROOT)) for path in sources_of("tests.support.bundles")}
    assert {"tests/support/bundles.py", "app/models/cnnswin.py", "app/bundles/manifest.py"} <= sources
    assert {"training/export/tracing.py", "training/export/demo_card.yaml", "app/engines/openvino.py"} <= sources
    assert "app/api/application.py" not in sources
