"""Serving without torch: the default engine never imports it, and where it is not installed nothing misses it.

The processes are real ones. What Python runs at their start, `sitecustomize`, hides torch or notes what was imported.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.asking import png_bytes
from tests.support.bundles import write_tiny_bundle
from tests.support.served_process import ROOT, environment, serving
from tests.support.without_packages import NO_TORCH, app, started_with

NOT_OF_THE_SERVICE = {"cv2", "torch", "torchvision", "timm", "training"}
NOTED = """
import atexit, pathlib, sys
atexit.register(lambda: pathlib.Path({out!r}).write_text(" ".join(sys.modules)))
"""


@pytest.fixture(scope="module")
def without_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle that only torch can serve."""
    return write_tiny_bundle(tmp_path_factory.mktemp("without") / "graphs", "cnn")


def test_a_service_that_predicts_and_explains_has_not_imported_torch(tiny_bundle: Path, tmp_path: Path) -> None:
    noted = tmp_path / "imported"
    env = started_with(NOTED.format(out=str(noted)), tmp_path, FUSIONLENS_ENGINE="openvino")
    with serving(tmp_path, env, "--bundle", str(tiny_bundle)) as served:
        answer = httpx.post(f"{served.address}/predict", files={"file": png_bytes()}, timeout=30).json()
        overlay = httpx.get(served.address + answer["links"]["gradcam"], timeout=30)
        assert served.stop(signal.SIGTERM) == (0, "")
    assert answer["label"] in ("benign", "malignant")
    assert overlay.content.startswith(b"\x89PNG")
    imported = set(noted.read_text().split())
    assert {"openvino", "app.engines.openvino", "app.api.routes.explanations"} <= imported
    assert not imported & NOT_OF_THE_SERVICE


@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_where_torch_is_not_installed_a_bundle_with_graphs_is_served(
    tiny_bundle: Path, tmp_path: Path, engine: str
) -> None:
    checked = app(started_with(NO_TORCH, tmp_path, FUSIONLENS_ENGINE=engine), tmp_path, "check", str(tiny_bundle))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "engine   openvino" in checked.stdout


@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_where_torch_is_not_installed_a_bundle_without_graphs_is_refused_with_the_command_that_makes_them(
    without_graphs: Path, tmp_path: Path, engine: str
) -> None:
    checked = app(
        started_with(NO_TORCH, tmp_path, FUSIONLENS_ENGINE=engine),
        tmp_path,
        "serve",
        "--port",
        "0",
        "--bundle",
        str(without_graphs),
    )
    assert (checked.returncode, checked.stdout) == (1, "")
    assert checked.stderr == (
        f"fusionlens: The bundle {without_graphs} has no compiled graphs: make them with fusionlens-train compile "
        "BUNDLE OUT (pip install 'fusionlens[train]'), or serve it with torch (pip install 'fusionlens[torch]', "
        "FUSIONLENS_ENGINE=torch).\n"
    )


def test_where_torch_is_not_installed_the_torch_engine_says_what_to_install(tiny_bundle: Path, tmp_path: Path) -> None:
    checked = app(started_with(NO_TORCH, tmp_path, FUSIONLENS_ENGINE="torch"), tmp_path, "check", str(tiny_bundle))
    sentence = "fusionlens: The torch engine needs torch and timm: pip install 'fusionlens[torch]'.\n"
    assert (checked.returncode, checked.stdout, checked.stderr) == (1, "", sentence)


def test_where_torch_is_not_installed_the_training_command_says_what_to_install(tmp_path: Path) -> None:
    command, env = [sys.executable, "-m", "training", "plan", "smoke"], started_with(NO_TORCH, tmp_path)
    planned = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert (planned.returncode, planned.stdout) == (1, "")
    (sentence,) = planned.stderr.splitlines()
    assert sentence.startswith("fusionlens-train: No module named ")
    assert sentence.endswith("Training needs pip install 'fusionlens[train]'.")


def test_where_torch_is_installed_a_bundle_without_graphs_is_served_with_it(
    without_graphs: Path, tmp_path: Path
) -> None:
    with serving(tmp_path, environment(ROOT), "--bundle", str(without_graphs)) as served:
        answer = httpx.post(f"{served.address}/predict", files={"file": png_bytes()}, timeout=30).json()
        explained = httpx.get(f"{served.address}{answer['links']['gradcam']}&format=json", timeout=30).json()
    assert explained["provenance"]["engine"].startswith("torch ")
