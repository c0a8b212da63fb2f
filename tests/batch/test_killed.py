"""Killed at any moment and started again, a job has the rows of one that is left alone, none of them twice."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.support.batch import assert_same, batch, rows_of, start, write_pictures
from tests.support.waiting import PATIENCE_S, wait_until

PICTURES = 240
OPTIONS = ("--part-rows", "8", "--explain", "gradcam", "--overlays")


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs. One that has ended stays in the table of processes until its new parent has seen that."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill_and_go_on(bundle: Path, tmp_path: Path, kills: int, seed: int) -> None:
    """Kill a job so many times, at moments that chance chooses, and compare what it comes to in the end."""
    chance = random.Random(seed)
    paths = write_pictures(tmp_path / "in", PICTURES)
    paths[100].write_bytes(b"no picture")
    assert batch(bundle, tmp_path / "alone", tmp_path / "in", *OPTIONS) == 0
    out, killed, parts_at = tmp_path / "out", 0, list[int]()
    while killed < kills:
        with start(bundle, out, tmp_path / "in", *OPTIONS) as job:
            parts = len(list(out.glob("rows/part-*")))
            # Some are killed while they start or make their list, the others while they write.
            if chance.random() < 0.7:
                wait_until(lambda: len(list(out.glob("rows/part-*"))) > parts or job.poll() is not None)  # noqa: B023
            time.sleep(chance.uniform(0, 0.4))
            children = psutil.Process(job.pid).children(recursive=True) if job.poll() is None else []
            job.kill()
            job.communicate()
        if job.returncode == 0:  # it was done before: again from the beginning, with another moment
            for file in (out / "rows").iterdir():
                file.unlink()
            continue
        assert job.returncode == -signal.SIGKILL
        wait_until(lambda: not any(map(is_alive, children)))  # noqa: B023
        killed += 1
        parts_at.append(len(list(out.glob("rows/part-*"))))
    assert len(set(parts_at)) > 1, parts_at  # not always at the same point
    assert batch(bundle, out, tmp_path / "in", *OPTIONS) == 0
    assert_same(rows_of(out), rows_of(tmp_path / "alone"))
    assert len(rows_of(out)) == PICTURES
    overlays = [path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*.png")]
    assert len(overlays) == PICTURES - 1
    for overlay in overlays:
        one, other = (np.asarray(Image.open(folder / overlay), np.int16) for folder in (out, tmp_path / "alone"))
        np.testing.assert_allclose(one, other, atol=2)
    assert [file.name for file in (out / "rows").iterdir() if not file.name.startswith("part-")] == []


def test_three_kills_change_nothing(tiny_bundle: Path, tmp_path: Path) -> None:
    kill_and_go_on(tiny_bundle, tmp_path, kills=3, seed=1)


@pytest.mark.matrix
@pytest.mark.parametrize("seed", [2, 3])
def test_many_kills_change_nothing(tiny_bundle: Path, tmp_path: Path, seed: int) -> None:
    kill_and_go_on(tiny_bundle, tmp_path, kills=20, seed=seed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_job_cleanly_and_it_goes_on(tiny_bundle: Path, tmp_path: Path, number: signal.Signals) -> None:
    write_pictures(tmp_path / "in", PICTURES)
    out = tmp_path / "out"
    with start(tiny_bundle, out, tmp_path / "in", *OPTIONS) as job:
        wait_until(lambda: list(out.glob("rows/part-*")) or job.poll() is not None)
        children = psutil.Process(job.pid).children(recursive=True)
        job.send_signal(number)
        printed, sentence = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 128 + number
    done = len(rows_of(out))
    assert 0 < done < PICTURES and done % 8 == 0 and printed == ""
    assert sentence == (
        f"fusionlens: {number.name} ended the job after {done} of {PICTURES} pictures; the same command goes on from "
        "there.\n"
    )
    assert not any(map(is_alive, children))
    assert [file.name for file in (out / "rows").iterdir() if not file.name.startswith("part-")] == []
    assert batch(tiny_bundle, out, tmp_path / "in", *OPTIONS) == 0
    assert batch(tiny_bundle, tmp_path / "alone", tmp_path / "in", *OPTIONS) == 0
    assert_same(rows_of(out), rows_of(tmp_path / "alone"))
