"""How the suite is split among processes."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest

from app.engines.cpu import available_cores
from tests.conftest import ROOT
from tests.support import workers
from tests.support.workers import kind_of, worker_processes


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("web/test_files.py", "browser"),
        ("api/test_load.py", "integration"),
        ("training/loop/test_fit.py", "integration"),
        ("training/data/test_draw.py", "unit"),
        ("drawing/test_png.py", "unit"),
        ("test_cli.py", "integration"),
    ],
)
def test_a_folder_says_of_which_kind_its_tests_are(file: str, kind: str) -> None:
    assert kind_of(PurePath(file)) == kind
    assert (ROOT / "tests" / file).is_file()


def test_every_folder_that_is_named_is_there() -> None:
    assert {folder.name for folder in (ROOT / "tests").rglob("*") if folder.is_dir()} >= workers._INTEGRATION


@pytest.mark.parametrize(("available_kb", "most"), [(100_000, 1), (3_500_000, 2), (10**9, 600)])
def test_there_is_one_process_more_than_cores_unless_memory_is_short(
    available_kb: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 10 kB\nMemAvailable:   {available_kb} kB\nHugePages_Total:       0\n")
    monkeypatch.setattr(workers, "_MEMORY", tmp_path / "meminfo")
    assert worker_processes() == min(most, available_cores() + 1)
