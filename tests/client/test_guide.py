"""The examples of the client's guide and of the READMEs run as they are written, against a real service."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.asking import png_bytes
from tests.support.served_process import ROOT

PAGES = ("README.md", "clients/python/README.md", "docs/guides/client.md")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
WRITTEN = {"overlay.png", "values.npy", "benign.png", "malignant.png"}


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_run(
    page: str,
    service: httpx.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    code = "\n".join(BLOCK.findall(text))
    assert "fusionlens_client" in code
    (tmp_path / "picture.png").write_bytes(png_bytes())
    monkeypatch.chdir(tmp_path)
    code = re.sub(r"http://(localhost|127\.0\.0\.1):8000", str(service.base_url).rstrip("/"), code)
    exec(compile(code, page, "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out
    assert "benign" in printed or "malignant" in printed
    written = {file.name for file in tmp_path.iterdir()} - {"picture.png"}
    assert written == (WRITTEN if page.startswith("docs") else {"overlay.png"})
    assert Image.open(tmp_path / "overlay.png").size == (96, 64)
    if page.startswith("docs"):
        assert "404 There is no such prediction" in printed and np.load(tmp_path / "values.npy").dtype == np.float32
