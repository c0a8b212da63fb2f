"""What the service drags in: no torch until an engine needs it, and a sentence where it is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.served_process import ROOT, environment

BASE = "app.__main__, app.main, app.api.predictions, app.inference.service, app.explain.cam, app.explain.overlay"
NO_TORCH = """
import sys

class WithoutTorch:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ("torch", "torchvision", "timm"):
            return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [WithoutTorch(finder) for finder in sys.meta_path]
"""


def test_importing_the_service_imports_no_torch(tmp_path: Path) -> None:
    loaded = f"import sys, {BASE}; print(sorted({{'torch', 'torchvision', 'timm', 'training'}} & sys.modules.keys()))"
    ran = python(loaded, tmp_path)
    assert (ran.returncode, ran.stdout) == (0, "[]\n"), ran.stderr


def test_without_torch_the_service_says_what_to_install(tiny_bundle: Path, tmp_path: Path) -> None:
    ran = python(
        f"{NO_TORCH}\nfrom app.__main__ import main\nsys.exit(main(['check', {str(tiny_bundle)!r}]))", tmp_path
    )
    sentence = "fusionlens: The torch engine needs torch and timm: pip install 'fusionlens[torch]'.\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", sentence)


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the code in another process, in `folder`."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(ROOT), capture_output=True, text=True
    )
