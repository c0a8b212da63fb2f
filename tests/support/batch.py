"""Pictures for batch jobs, the command in this process or another, and the rows that it writes."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from app.__main__ import main
from tests.support.pictures import encoded
from tests.support.served_process import ROOT, environment

Rows = list[dict[str, Any]]
COMMAND = (sys.executable, "-m", "app", "batch")


def picture(seed: int, side_px: int = 64) -> bytes:
    """Soft colours as PNG, another picture for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return encoded(Image.fromarray(coarse).resize((side_px, side_px)), "PNG", compress_level=1)


def write_pictures(folder: Path, count: int) -> list[Path]:
    """So many pictures, in the order of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(picture(number))
    return paths


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """A tar file of ordinary files."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def batch(bundle: Path, out: Path, *arguments: str | Path) -> int:
    """The exit status of a job that is done in this process."""
    try:
        return main(["batch", "--bundle", str(bundle), "--out", str(out), *map(str, arguments)])
    except SystemExit as ended:
        return int(str(ended.code))


def start(bundle: Path, out: Path, *arguments: str | Path, **settings: str) -> subprocess.Popen[str]:
    """A job in a process of its own. It keeps compiled graphs where this one does."""
    env = environment(ROOT, FUSIONLENS_CACHE=os.environ["FUSIONLENS_CACHE"], **settings)
    command = [*COMMAND, "--bundle", str(bundle), "--out", str(out), *map(str, arguments)]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def rows_of(out: Path) -> Rows:
    """All rows of a job, in the order of its part files."""
    rows: Rows = pq.read_table(out / "rows").to_pylist()
    return rows


def timeless(rows: Rows) -> Rows:
    """The rows without the only column that differs from run to run."""
    return [{name: value for name, value in row.items() if name != "time_ms"} for row in rows]


def assert_same(rows: Rows, others: Rows) -> None:
    """The same rows but for their times, and for the last bits of numbers, which are not the same in every process."""
    assert len(rows) == len(others)
    for row, other in zip(timeless(rows), timeless(others), strict=True):
        for name in row.keys() | other.keys():
            # A heatmap is rounded to 11 bits.
            relative = 2**-10 if name.startswith("heatmap_") else 0.0
            for one, of_other in zip(_flat(row[name]), _flat(other[name]), strict=True):
                is_same = one == of_other
                if isinstance(one, float) and isinstance(of_other, float):
                    is_same = math.isclose(one, of_other, rel_tol=relative, abs_tol=1e-5)
                assert is_same, (row["path"], name, one, of_other)


def _flat(value: Any) -> list[Any]:
    """The numbers and texts in a value, in their order."""
    if isinstance(value, dict):
        return [leaf for name in sorted(value) for leaf in (name, *_flat(value[name]))]
    return [leaf for each in value for leaf in _flat(each)] if isinstance(value, list) else [value]


def names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The name of each row's picture, without its folder."""
    return [row["member"] or Path(row["path"]).name for row in rows]
