"""A batch job on Ray has the rows of one in a single process: `make test-ray`. Needs root and .venv-ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.ray.apart import run_apart

pytestmark = pytest.mark.ray_serve


def test_a_job_on_ray_that_was_killed_goes_on_to_the_same_rows(tiny_bundle: Path, tmp_path: Path) -> None:
    printed = run_apart("tests.support.ray.batched", tiny_bundle, tmp_path)
    (line,) = (line for line in printed.splitlines() if line.startswith('{"killed"'))
    found = json.loads(line)
    assert found["killed"] and 0 < found["parts_when_killed"] < found["parts"], found
    assert found["workers"] > 2 and found["outlived"] == [], found
    assert found["stopped"] == 143, found
    assert found["gone_on"] == [0, 1] and found["rows"] == 220 and found["same"], found
