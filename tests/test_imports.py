"""What importing the service drags in: no torch until an engine needs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.served_process import ROOT, environment

BASE = (
    "app.cli, app.server.process, app.api.routes.predictions, app.serving.service, app.explain.cam, app.drawing.overlay"
)


def test_importing_the_service_imports_no_torch_and_nothing_of_batch_jobs(tmp_path: Path) -> None:
    unwanted = {"cv2", "pyarrow", "torch", "torchvision", "timm", "training"}
    ran = python(f"import sys, {BASE}; print(sorted({unwanted} & sys.modules.keys()))", tmp_path)
    assert (ran.returncode, ran.stdout) == (0, "[]\n"), ran.stderr


def test_commands_and_decoders_import_nothing_for_the_checks_of_types(tmp_path: Path) -> None:
    code = f"import sys, {BASE}, app.pictures.worker; print('jaxtyping' in sys.modules)"
    assert python(code, tmp_path).stdout == "False\n"


def test_the_engine_imports_no_converter_of_models_and_keeps_nobody_from_it(tmp_path: Path) -> None:
    code = (
        "import sys, app.engines.openvino, openvino; print('openvino.tools.ovc' in sys.modules)\n"
        "print(hasattr(openvino, 'no_such_name'), callable(openvino.convert_model))\n"
        "from openvino.tools.ovc import convert_model; print(convert_model is openvino.convert_model)"
    )
    assert python(code, tmp_path).stdout == "False\nFalse True\nTrue\n"


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the code in another process, in `folder`."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(ROOT), capture_output=True, text=True
    )
