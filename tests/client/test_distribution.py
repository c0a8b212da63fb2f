"""The distribution: its own wheel, typed, of the service's version, and without anything of the service."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import fusionlens_client
import pytest
from packaging.requirements import Requirement

import app
from tests.support.served_process import ROOT, environment

FOLDER = ROOT / "clients" / "python"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy of its folder alone."""
    copy, out = tmp_path_factory.mktemp("copy") / "python", tmp_path_factory.mktemp("wheel")
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "wheel", "."]
    subprocess.run([*command, "--no-deps", "--no-build-isolation", "--wheel-dir", str(out)], cwd=copy, check=True)
    (built,) = out.iterdir()
    return zipfile.ZipFile(built)


def test_the_wheel_holds_the_package_its_types_and_the_licence(wheel: zipfile.ZipFile) -> None:
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    sources = {file.relative_to(FOLDER).as_posix() for file in (FOLDER / "fusionlens_client").glob("*.*")}
    assert packed == sources and "fusionlens_client/py.typed" in packed
    (licence,) = (name for name in wheel.namelist() if name.endswith("/licenses/LICENSE"))
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_needs_what_is_imported_and_no_more(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = HeaderParser().parsestr(wheel.read(name).decode())
    required = {Requirement(line).name for line in metadata.get_all("Requires-Dist", [])}
    assert required == {"httpx", "numpy", "pillow"} and metadata["Name"] == "fusionlens-client"
    roots = {root for file in (FOLDER / "fusionlens_client").glob("*.py") for root in imported(file)}
    assert roots - {*sys.stdlib_module_names} == {"httpx", "numpy", "PIL", "fusionlens_client"}


def imported(file: Path) -> set[str]:
    """The packages that a file imports."""
    nodes = [*ast.walk(ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 10)))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names}


def test_the_client_has_the_version_of_the_service(wheel: zipfile.ZipFile) -> None:
    assert fusionlens_client.__version__ == app.__version__
    assert wheel.filename is not None and f"-{app.__version__}-" in Path(wheel.filename).name


def test_importing_the_client_imports_nothing_of_the_service(tmp_path: Path) -> None:
    code = "import sys, fusionlens_client; print(sorted({'app', 'training', 'pydantic', 'torch'} & sys.modules.keys()))"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(FOLDER), capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout) == (0, "[]\n"), ran.stderr
