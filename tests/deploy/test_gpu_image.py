"""The image for GPUs, where there is none: its command is started here as the image starts it, with what it sets."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.engines.protocol import EngineKind
from app.errors import EngineError
from app.files import DEMO_BUNDLE
from tests.deploy.test_dockerfile import FILE
from tests.support.served_process import ROOT, SERVE, environment

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="SKIPPED LOUDLY: a GPU is here")
NO_DRIVER = (
    "The engine shall run on a CUDA GPU, but torch finds none: install NVIDIA's driver, give a container its GPU "
    "(--gpus all), or set FUSIONLENS_DEVICE=cpu."
)


def settings_of(stage: str) -> dict[str, str]:
    """The settings of the service that a stage of the Dockerfile makes, without those of the stages before it."""
    (text,) = re.findall(rf"^FROM .+ AS {stage}\n(.*?)(?=^FROM |\Z)", FILE.read_text(), re.MULTILINE | re.DOTALL)
    return dict(
        re.findall(r"\b(FUSIONLENS_\w+)=(\S+)", "\n".join(re.findall(r"^ENV(?:.*\\\n)*.*", text, re.MULTILINE)))
    )


def test_the_image_for_gpus_refuses_to_start_in_a_sentence(tmp_path: Path) -> None:
    image = settings_of("runtime") | settings_of("gpu")
    assert image["FUSIONLENS_HOST"] == "0.0.0.0" and image["FUSIONLENS_ENGINE"] == "torch"
    env = environment(ROOT, **image | {"FUSIONLENS_CACHE": str(tmp_path), "FUSIONLENS_ALLOW_ANONYMOUS": "true"})
    ran = subprocess.run(SERVE, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", f"fusionlens: {NO_DRIVER}\n")


def test_who_names_a_gpu_never_gets_a_cpu() -> None:
    bundle = read_bundle(DEMO_BUNDLE)
    kinds: tuple[EngineKind, ...] = ("auto", "torch")
    for kind in kinds:
        with pytest.raises(EngineError, match=re.escape(NO_DRIVER)):
            load_engine(bundle, kind, device="cuda")
    with pytest.raises(EngineError, match="OpenVINO engine runs on a CPU"):
        load_engine(bundle, "openvino", device="cuda")


def test_a_torch_without_cuda_is_told_from_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(EngineError, match="was built without CUDA"):
        load_engine(read_bundle(DEMO_BUNDLE), "torch", device="cuda")
