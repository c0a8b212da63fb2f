"""The memory of a job does not grow with its pictures, and one damaged file of many costs one row."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.batch import picture, rows_of, start

DIFFERENT = 50  # pictures: the others are links to them


def fill(folder: Path, count: int, damaged: int) -> Path:
    """A folder of so many small pictures, one of which is damaged."""
    folder.mkdir()
    for number in range(count):
        name = folder / f"{number:06d}.png"
        if number < DIFFERENT:
            name.write_bytes(picture(number))
        else:
            name.hardlink_to(folder / f"{number % DIFFERENT:06d}.png")
    (folder / f"{damaged:06d}.png").unlink()
    (folder / f"{damaged:06d}.png").write_bytes(picture(damaged)[:100])
    return folder


def peak_bytes(bundle: Path, out: Path, folder: Path) -> int:
    """The largest memory of the process that does a job on a folder, by the system's own count."""
    peak = 0
    with start(bundle, out, folder) as job:
        status = Path(f"/proc/{job.pid}/status")
        while job.poll() is None:
            facts = dict(line.split(":", 1) for line in status.read_text().splitlines())
            peak = max(peak, int(facts.get("VmHWM", "0 kB").split()[0]) * 1024)
            time.sleep(0.02)
        _, said = job.communicate()
    assert job.returncode == 0, said
    return peak


@pytest.mark.matrix
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="SKIPPED LOUDLY: this system does not tell memory")
def test_twenty_times_the_pictures_take_the_same_memory(tiny_bundle: Path, tmp_path: Path) -> None:
    few = peak_bytes(tiny_bundle, tmp_path / "few-out", fill(tmp_path / "few", 1000, damaged=700))
    many = peak_bytes(tiny_bundle, tmp_path / "many-out", fill(tmp_path / "many", 20_000, damaged=9_999))
    assert many <= 1.1 * few, (few, many)
    rows = rows_of(tmp_path / "many-out")
    assert Counter(row["error"] for row in rows) == {None: 19_999, "unreadable-picture": 1}
    assert rows[9_999]["error"] == "unreadable-picture"
