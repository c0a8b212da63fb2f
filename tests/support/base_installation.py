"""The base package in an environment of its own: it predicts and explains there, without torch and within its size.

python tests/support/base_installation.py PYTHON, where PYTHON is that environment's. Needs nothing but Python itself.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "app" / "web" / "examples" / "drawn.webp"
MOST_BYTES = 450_000_000


def main(python: str) -> None:
    python = str(Path(python).absolute())  # not resolved: it is a link that says which environment is meant
    folder = tempfile.gettempdir()  # not the checkout, whose `app` would be found instead of the installed one
    absent = "import importlib.util as u; print([m for m in ('torch', 'timm', 'cv2') if u.find_spec(m)])"
    assert subprocess.check_output([python, "-c", absent], cwd=folder, text=True).strip() == "[]"
    command = [str(Path(python).parent / "fusionlens"), "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            started = re.search(r"at (http://\S+)", server.stdout.readline())
            assert started, "the service did not start"
            body, headers = EXAMPLE.read_bytes(), {"Content-Type": "image/webp"}
            request = urllib.request.Request(f"{started[1]}/predict", body, headers)
            answer = json.load(urllib.request.urlopen(request, timeout=60))
            overlay = urllib.request.urlopen(started[1] + answer["links"]["gradcam"], timeout=60).read()
        finally:
            server.terminate()
    assert answer["label"] == "benign" and overlay.startswith(b"\x89PNG"), answer
    environment = Path(python).parents[1]
    files = (file for file in environment.rglob("*") if file.is_file() and not file.is_symlink())
    size = sum(file.stat().st_size for file in files)
    print(f"the base installation predicts and explains; it takes {size / 1e6:.0f} MB")
    assert size <= MOST_BYTES


if __name__ == "__main__":
    main(sys.argv[1])
