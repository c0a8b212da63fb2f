"""The tests of the API against two replicas on Ray, from within a namespace.

Run as `python -m tests.support.ray.suite FOLDER`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from app.pictures.formats import MORE_FORMATS
from tests.api.conftest import MAX_UPLOAD_BYTES
from tests.support.artifacts import build_once
from tests.support.ray.cluster import ADDRESS, ray_serving
from tests.support.redis_server import redis_server


def main(folder: Path) -> int:
    bundle = build_once("tests.support.bundles:write_compiled_bundle", folder / "bundle")
    with redis_server(folder) as redis:
        settings = {
            "bundle": str(bundle),
            "max_upload_bytes": str(MAX_UPLOAD_BYTES),
            "more_formats": ",".join(MORE_FORMATS),
            "allow_anonymous": "true",
            "log": "off",
            **redis.settings,
        }
        with ray_serving({f"FUSIONLENS_{name.upper()}": value for name, value in settings.items()}):
            suite = [
                "pytest",
                "tests/api",
                "--address",
                ADDRESS,
                "--served",
                str(bundle),
                "-p",
                "tests.support.ray.behind_ray",
            ]
            return subprocess.run([sys.executable, "-m", *suite, "-p", "no:cacheprovider"]).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
