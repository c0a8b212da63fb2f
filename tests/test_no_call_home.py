"""Nothing of ours connects anywhere that the user did not name, and nothing is left in the user's home folder."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.captured import COMMANDS, CONTROLS, Captured
from tests.support.deploy.tools import run_apart
from tests.support.served_process import ROOT, environment
from training.data.draw import draw_dataset

# The packages that import OpenVINO somewhere. Their roots are imported first, and keep it from reporting that.
PACKAGES = sorted(
    root.parent.name
    for root in ROOT.glob("*/__init__.py")
    if any(f"{word} openvino" in file.read_text() for file in root.parent.rglob("*.py") for word in ("import", "from"))
)


@pytest.fixture(scope="module")
def report(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Captured]:
    """What the commands and the controls did in a network of their own."""
    folder = tmp_path_factory.mktemp("captured")
    shutil.copytree(tiny_bundle, folder / "tiny")
    draw_dataset(folder / "data", 16, seed=0)
    print(run_apart("tests.support.captured", folder))
    found: dict[str, Captured] = json.loads((folder / "report.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["serve and health", *COMMANDS])
def test_no_packet_is_sent_to_anywhere_and_no_file_is_left_at_home(name: str, report: dict[str, Captured]) -> None:
    captured = report[name]
    assert (captured["sent_to"], captured["files"]) == ([], [])
    assert captured["status"] == 0, captured["output"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLS)
def test_what_does_send_something_is_seen(name: str, report: dict[str, Captured]) -> None:
    captured = report[name]
    assert captured["status"] == 0, captured["output"]
    if name == "OpenVINO alone":
        if not [*importlib.metadata.distributions(name="openvino_telemetry")]:
            pytest.skip("SKIPPED LOUDLY: openvino_telemetry is not installed, so OpenVINO reports nothing anyway")
        assert captured["files"]
    expected = {"TCP": "192.0.2.1 port 443", "TCP, IPv6": "2001:db8::1 port 443", "UDP": "192.0.2.1 port 9"}
    assert expected.get(name, "DNS: ") in str(captured["sent_to"])


@pytest.mark.parametrize("package", PACKAGES)
def test_whatever_is_imported_first_openvino_has_nothing_to_report_by(package: str, tmp_path: Path) -> None:
    code = f"import {package}, sys; print(sys.modules['openvino_telemetry'])"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(ROOT), capture_output=True, text=True
    )
    assert ran.stdout == "None\n", ran.stderr
