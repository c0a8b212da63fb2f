"""The benchmarks on a GPU, without one: every section at tiny sizes, and what is said of what is missing."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.__main__ import DOCS, FILE, SECTIONS, SPARE_S, _run, _take_over
from benchmarks.gpu.effort import FULL, TINY
from benchmarks.gpu.notes import Notes
from benchmarks.gpu.page import NO_GPU, page, read_page
from tests.support.served_process import ROOT, environment
from tests.support.without_packages import started_with, without

# Those that start processes of their own are part of the whole program below.
ALONE = ("machine", "engine", "explaining", "stages", "fitting", "serving")
QUICK = replace(TINY, compiled_batches=())


def program(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    given = environment(ROOT) if env is None else env
    return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("name", ALONE)
def test_a_section_finds_figures_and_its_checks_hold_on_a_cpu(name: str, tmp_path: Path) -> None:
    notes = Notes(tmp_path / f"{name}.json", math.inf)
    (tmp_path / name).mkdir()
    import_module(f"benchmarks.gpu.{name}").measure(notes, QUICK, "cpu", tmp_path / name)
    found = json.loads(notes.file.read_text())
    assert found == {"figures": notes.figures, "checks": notes.checks, "skipped": notes.skipped}
    assert notes.figures and [check for check in notes.checks if not check["holds"]] == []
    section = found | {"status": "complete"}
    text = page({"device": "cpu", "effort": "tiny", "sections": {name: section}})
    assert NO_GPU in text.replace("\n", " ") and text.count("**Not measured.**") == 7 - (name != "machine")


@pytest.mark.slow
def test_the_whole_program_goes_through_every_section(tmp_path: Path) -> None:
    ran = program("--device", "cpu", "--out", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    document = json.loads((tmp_path / FILE).read_text())
    assert {name: one["status"] for name, one in document["sections"].items()} == dict.fromkeys(SECTIONS, "complete")
    checks = [check for one in document["sections"].values() for check in one["checks"]]
    assert len(checks) > 20 and all(check["holds"] for check in checks)
    assert (tmp_path / FILE).with_suffix(".md").read_text() == read_page(tmp_path)


def test_it_works_without_openvino_and_says_loudly_what_it_skips(tmp_path: Path) -> None:
    env = started_with(without("openvino", "pytorch_grad_cam"), tmp_path)
    ran = program("--device", "cpu", "--out", str(tmp_path / "out"), "--only", "explaining", env=env)
    assert ran.returncode == 0, ran.stderr
    sections = json.loads((tmp_path / "out" / FILE).read_text())["sections"]
    assert {name: one["status"] for name, one in sections.items()} == {"machine": "complete", "explaining": "complete"}
    (missing,) = sections["explaining"]["skipped"]
    assert f"SKIPPED LOUDLY: {missing}\n" in ran.stdout and "pip install grad-cam" in missing


def test_sections_of_an_earlier_report_are_kept_if_they_are_of_the_same_machine(tmp_path: Path) -> None:
    def report(device: str, date: str, *names: str) -> dict[str, Any]:
        machine = {"figures": {"device": device, "date": date}}
        return {"effort": "full", "sections": {"machine": machine} | {name: {"figures": {}} for name in names}}

    earlier = report("one GPU", "yesterday", "engine", "stages")
    (tmp_path / FILE).write_text(json.dumps(earlier))
    same, other = report("one GPU", "today"), report("another GPU", "today")
    _take_over(same, tmp_path / FILE)
    _take_over(other, tmp_path / FILE)
    assert same["sections"].keys() == {"machine", "engine", "stages"} and other["sections"].keys() == {"machine"}
    assert same["sections"]["machine"]["figures"]["date"] == "today"


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    env = started_with(without("openvino", "cv2"), tmp_path)
    ran = program("--device", "cpu", "--out", str(tmp_path / "out"), "--only", "stages", env=env)
    assert ran.returncode == 0, ran.stderr
    assert "Not measured: what follows in the section stages: it needs cv2, which is not installed.\n" in ran.stdout


def test_a_section_that_fails_costs_itself_and_says_why(tmp_path: Path) -> None:
    end_s = time.monotonic() + SECTIONS["stages"]
    section = _run("stages", tmp_path, "no-such-device", "tiny", end_s)
    assert section["status"] == "failed" and "no-such-device" not in section["figures"]
    assert section["why"].startswith("RuntimeError: ")
    document = {"device": "cuda", "effort": "full", "sections": {"stages": section}}
    assert f"**This section failed: {section['why']}." in page(document).replace("\n", " ")


def test_a_section_without_time_is_not_begun(tmp_path: Path) -> None:
    section = _run("engine", tmp_path, "cpu", "tiny", time.monotonic() + SPARE_S)
    assert section["status"] == "not begun" and not [*tmp_path.iterdir()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="SKIPPED LOUDLY: a GPU is here")
def test_without_a_gpu_nothing_is_measured_unless_that_is_asked_for(tmp_path: Path) -> None:
    ran = program("--out", str(tmp_path))
    assert (ran.returncode, [*tmp_path.iterdir()]) == (1, [])
    assert ran.stderr.startswith("SKIPPED LOUDLY: nothing was measured, since torch finds no CUDA GPU here")


def test_what_a_cpu_finds_is_never_written_among_the_measured_pages() -> None:
    before = {file: file.stat().st_mtime_ns for file in DOCS.iterdir()}
    ran = program("--device", "cpu", "--out", str(DOCS))
    assert ran.returncode == 2 and "is for what a GPU has measured" in ran.stderr
    assert {file: file.stat().st_mtime_ns for file in DOCS.iterdir()} == before


def test_a_committed_report_is_that_of_a_gpu() -> None:
    if not (DOCS / FILE).is_file():
        pytest.skip("SKIPPED LOUDLY: there is no report of a GPU yet")
    document: dict[str, Any] = json.loads((DOCS / FILE).read_text())
    assert (document["device"], document["effort"]) == ("cuda", FULL.name)


def test_what_is_left_out_for_want_of_time_is_said(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "section.json", time.monotonic() - 1)
    assert not notes.has_time(0, "this")
    assert notes.skipped == ["this: too little of the section's time was left"]


def test_nan_is_no_figure_that_holds(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "section.json", math.inf)
    notes.check("error", math.nan, 1.0)
    assert not notes.checks[0]["holds"]
