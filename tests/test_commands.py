"""The installed commands, fusionlens and fusionlens-train: where they work, what they are called, what they load."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import tool
from tests.support.served_process import ROOT, environment

HEALTH = """
import sys
before = set(sys.modules)
from app.__main__ import main
main(["health", "--port", "1"])
imported = {name.partition(".")[0] for name, module in sys.modules.items() if module and name not in before}
print(*sorted(imported - sys.stdlib_module_names))
"""


def ran(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """The command, run in this folder. It finds this checkout, whichever one it was installed from."""
    return subprocess.run(command, cwd=folder, env=environment(ROOT), capture_output=True, text=True, timeout=120)


def test_the_command_works_in_a_folder_that_has_an_app_of_its_own(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise SystemExit('this is another app')")
    assert "this is another app" in ran(tmp_path, sys.executable, "-m", "app", "--version").stderr
    checked = ran(tmp_path, tool("fusionlens"), "check", str(tiny_bundle))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.startswith(f"{tiny_bundle}: good\n")


@pytest.mark.parametrize("subcommand", ["health", "predict"])
def test_the_usage_names_the_command_as_it_was_called(subcommand: str, tmp_path: Path) -> None:
    for called, command in (("fusionlens", [tool("fusionlens")]), ("python -m app", [sys.executable, "-m", "app"])):
        usage = ran(tmp_path, *command, subcommand, "--help").stdout
        assert usage.startswith(f"usage: {called} {subcommand} "), usage


@pytest.mark.slow
def test_the_training_command_names_itself_as_it_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(tmp_path, tool("fusionlens-train"), "--help").stdout.startswith("usage: fusionlens-train [-h]")
    monkeypatch.setattr(sys, "argv", ["training", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("training", run_name="__main__")  # as python -m, without loading torch once more
    assert capsys.readouterr().out.startswith("usage: python -m training [-h]")


def test_health_loads_nothing_but_the_standard_library(tmp_path: Path) -> None:
    assert ran(tmp_path, sys.executable, "-c", HEALTH).stdout.split() == ["app"]
