"""The wheel: what is in it, and that it serves where the project is not."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import httpx
import pytest
from PIL import Image

from app.bundles.reader import read_bundle
from tests.support.served_process import ROOT, environment, serving

PACKED = ("app/", "training/", "weights/demo/")


@pytest.fixture(scope="module")
def project_files() -> list[str]:
    """The files of the project, as git knows them."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("SKIPPED LOUDLY: not a git checkout, so which files belong to the project is not known")
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT)
    return [name for name in listed.split("\0") if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(project_files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy that holds the project's files and no others."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in project_files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    pip(["wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out)], copy)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel. What it depends on is found in this environment."""
    folder = tmp_path_factory.mktemp("installed")
    pip(["install", str(wheel), "--no-deps", "--no-index", "--target", str(folder)], folder)
    return folder


def test_the_wheel_holds_the_packages_the_page_the_recipes_and_nothing_else(
    wheel: Path, project_files: list[str]
) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    metadata = {name for name in names if ".dist-info/" in name}
    assert set(names) - metadata == {name for name in project_files if name.startswith(PACKED)}
    assert {"app/__main__.py", "app/web/index.html", "training/recipe/demo.yaml"} <= set(names)
    assert {"app/py.typed", "training/py.typed"} <= set(names)
    assert any(name.endswith("/licenses/LICENSE") for name in metadata)


@pytest.mark.slow
def test_the_installed_wheel_answers_requests(installed: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    places = run(
        [sys.executable, "-c", "import app, training; print(app.__file__, training.__file__)"],
        tmp_path,
        environment(installed),
    )
    assert places.split() == [str(installed / package / "__init__.py") for package in ("app", "training")]
    picture = tmp_path / "picture.png"
    Image.effect_noise((90, 60), 80).convert("RGB").save(picture)
    with serving(tmp_path, environment(installed), "--bundle", str(tiny_bundle)) as served:
        answer = httpx.post(f"{served.address}/predict", files={"file": picture.read_bytes()}, timeout=30)
        overlay = httpx.get(served.address + answer.json()["links"]["gradcam"], timeout=30)
        page = httpx.get(f"{served.address}/")
        script = httpx.get(f"{served.address}/web/app.js")
        assert served.stop(signal.SIGTERM) == (0, "")
    assert answer.json()["model"]["sha256"] == read_bundle(tiny_bundle).sha256
    assert overlay.content.startswith(b"\x89PNG")
    assert (page.status_code, script.status_code) == (200, 200)


@pytest.mark.slow
def test_the_installed_wheel_brings_the_demo_bundle(installed: Path, tmp_path: Path) -> None:
    bundle = installed / "weights" / "demo"
    assert (bundle / "manifest.json").is_file(), "the wheel holds no weights/demo"
    picture = tmp_path / "picture.png"
    Image.effect_noise((90, 60), 80).convert("RGB").save(picture)
    answer = run([str(installed / "bin" / "fusionlens"), "predict", picture.name], tmp_path, environment(installed))
    assert answer.split()[:2] in (["picture.png:", "benign"], ["picture.png:", "malignant"])


def pip(arguments: Iterable[str], folder: Path) -> None:
    run([sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments], folder)


def run(command: list[str], folder: Path, env: dict[str, str] | None = None) -> str:
    """Run a command in `folder` and return what it printed; what it said in failing is in the error."""
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
