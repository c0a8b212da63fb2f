"""The processes that decode for a job: what ends one costs one picture, and nothing outlives the pool."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import psutil
import pytest

from app.batch.decoding import DecoderPool, DecodingOptions
from app.batch.refusals import JobEnded, JobRefused
from app.errors import UnreadablePicture
from app.pictures.limits import Limits
from app.pictures.opened import OpenOptions, open_picture
from tests.support.batch import picture
from tests.support.lying_decoder import LIES
from tests.support.pictures import png
from tests.support.waiting import PATIENCE_S

SMALL = OpenOptions((8, 8), Limits(), 512)  # what the lying decoder answers for
OPTIONS = DecodingOptions(1, 768_000_000, 5.0, 10**6)
LYING = replace(OPTIONS, program="tests.support.lying_decoder")


@pytest.fixture
def lying() -> Iterator[DecoderPool]:
    """One process that hostile pictures take over."""
    pool = DecoderPool(LYING)
    yield pool
    pool.close()


def processes() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize("lie", [name for name in LIES if name not in ("the truth", "no answer")])
def test_a_process_that_lies_costs_its_picture_alone(lying: DecoderPool, lie: str) -> None:
    with pytest.raises(UnreadablePicture, match="ended the process that decoded it"):
        lying.open(lie.encode(), SMALL)
    assert lying.open(b"the truth", SMALL).image.shape == (8, 8, 3)


def test_a_picture_that_takes_too_long_is_refused_at_once_and_the_next_one_is_decoded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = DecoderPool(replace(OPTIONS, cpu_s=0.1))
    black = png(6250, 4000, 8, 2, bytes(4000 * (1 + 3 * 6250)))  # 25 million pixels
    try:
        with pytest.raises(UnreadablePicture, match=r"more than 0\.1 s of processor time"):
            pool.open(black, SMALL)
        assert caplog.records == []  # no other process has tried
        np.testing.assert_array_equal(pool.open(picture(1), SMALL).image, open_picture(picture(1), SMALL).image)
    finally:
        pool.close()


def test_a_process_that_was_killed_while_it_was_idle_is_replaced() -> None:
    before = processes()
    pool = DecoderPool(OPTIONS)
    try:
        for pid in processes() - before:
            psutil.Process(pid).kill()
        np.testing.assert_array_equal(pool.open(picture(1), SMALL).image, open_picture(picture(1), SMALL).image)
    finally:
        pool.close()
    assert processes() == before


def test_closing_ends_processes_that_decode(lying: DecoderPool) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(lying.open, b"no answer", SMALL)
        time.sleep(0.2)
        lying.close()
        with pytest.raises(UnreadablePicture):
            waiting.result(timeout=10)


@pytest.mark.parametrize("python", ["/bin/false", "/nowhere/python"])
def test_a_process_that_cannot_be_replaced_ends_the_job_and_blocks_nobody(
    lying: DecoderPool, monkeypatch: pytest.MonkeyPatch, python: str
) -> None:
    refused: list[JobEnded] = []

    def open_one() -> None:
        with pytest.raises(JobEnded, match="none could be started in its place") as ended:
            lying.open(b"no message", SMALL)
        refused.append(ended.value)

    monkeypatch.setattr(sys, "executable", python)
    threads = [threading.Thread(target=open_one, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(refused) == 3 and {error.exit_status for error in refused} == {1}
    monkeypatch.undo()
    assert lying.open(b"the truth", SMALL).image.shape == (8, 8, 3)


def test_processes_that_do_not_start_are_told_in_a_sentence() -> None:
    with pytest.raises(JobRefused, match="No process that decodes pictures could be started"):
        DecoderPool(replace(OPTIONS, program="tests.support.no_such_program"))
