"""Training where OpenVINO is not installed, as on a machine that only trains: it works, and says what it leaves out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.files import DEMO_BUNDLE
from tests.support.served_process import ROOT
from tests.support.without_packages import app, started_with, without
from tests.training.loop.small_run import RECIPE
from training.data.draw import draw_dataset
from training.export.graph_errors import UNCHECKED

PICTURE = ROOT / "app" / "web" / "examples" / "drawn.webp"


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that does not find OpenVINO."""
    return started_with(without("openvino"), tmp_path_factory.mktemp("without-openvino"))


@pytest.fixture(scope="module")
def trained(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of seconds, and what was said while it trained."""
    folder = tmp_path_factory.mktemp("trained")
    draw_dataset(folder / "data", 16, seed=1)
    ran = train(env, folder, "fit", *RECIPE, "--data", "data", "--out", "run")
    assert ran.returncode == 0, ran.stderr
    return folder, ran.stdout


def train(env: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def test_a_run_is_trained_and_what_was_not_checked_is_said(trained: tuple[Path, str]) -> None:
    folder, said = trained
    assert (folder / "run" / "ema.safetensors").is_file()
    assert said.count(UNCHECKED) == 1


def test_a_plan_warns_of_what_was_not_checked(env: dict[str, str], tmp_path: Path) -> None:
    planned = train(env, tmp_path, "plan", *RECIPE)
    assert (planned.returncode, planned.stderr) == (0, "")
    assert f"warning: {UNCHECKED}\n" in planned.stdout


def test_an_export_is_refused_with_a_sentence(env: dict[str, str], trained: tuple[Path, str]) -> None:
    folder, _ = trained
    refused = train(env, folder, "export", "run", "bundle", "--positive", "malignant")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "fusionlens-train: graphs are made with OpenVINO, which is not installed here: pip install openvino\n"
    )
    assert not (folder / "bundle").exists()


def test_the_torch_engine_serves_a_bundle_with_graphs(env: dict[str, str], tmp_path: Path) -> None:
    with_torch = env | {"FUSIONLENS_ENGINE": "torch"}
    predicted = app(with_torch, tmp_path, "predict", str(PICTURE), "--bundle", str(DEMO_BUNDLE), "--json")
    assert (predicted.returncode, predicted.stderr) == (0, "")
    assert '"label": "benign"' in predicted.stdout
