"""Pictures are decoded in processes of their own: same answers, bounded costs, and nothing believed that one says."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from app.errors import DeadlineExceeded, FusionLensError, PictureTooLarge, UnreadablePicture
from app.pictures.bit_depth import Stretch
from app.pictures.decode import Limits
from app.pictures.formats import readable_formats
from app.pictures.opened import OpenedPicture, OpenOptions, open_picture
from app.serving.decoder_process import DecoderEnded, DecoderProcess
from app.serving.decoders import DecoderOptions, Decoders
from app.telemetry.metrics import Metrics
from reliability.hostile import saved
from tests.serving.test_queue import in_time, so, tried
from tests.support.asking import png_bytes, scene
from tests.support.lying_decoder import LIES
from tests.support.pictures import chunk, encoded, png, png_of
from tests.support.profiles import P3_PRIMARIES, rgb_profile
from tests.support.tiff_file import Storage, tiff_file

MB = 10**6
OPTIONS = OpenOptions((64, 64), Limits(formats=readable_formats()), 512)
SMALL = OpenOptions((8, 8), Limits(), 512)  # what the lying decoder answers for
PROGRAM, LYING = DecoderOptions.program, "tests.support.lying_decoder"
BLACK = png(6250, 4000, 8, 2, bytes(4000 * (1 + 3 * 6250)))  # 25 million pixels, which take a while


@pytest.fixture(scope="module")
def process() -> Iterator[DecoderProcess]:
    """A process as the service starts it."""
    process = DecoderProcess(768 * MB, 20.0, PROGRAM)
    assert process.wait_until_ready()
    yield process
    process.close()


def outcome(work: Callable[[], OpenedPicture]) -> OpenedPicture | str:
    """What became of a picture: the picture, or the name and the text of an error of ours."""
    try:
        return work()
    except FusionLensError as error:
        return f"{type(error).__name__}: {error}"


def assert_as_here(process: DecoderProcess, data: bytes) -> None:
    there, here = (outcome(lambda: process.open(data, OPTIONS)), outcome(lambda: open_picture(data, OPTIONS)))
    if isinstance(here, str) or isinstance(there, str):
        assert there == here
        return
    assert (there.width_px, there.height_px, there.format, there.notes) == (
        *(here.width_px, here.height_px, here.format, here.notes),
    )
    np.testing.assert_array_equal(there.image, here.image)
    assert there.preview is not None and here.preview is not None
    np.testing.assert_array_equal(there.preview, here.preview)
    without = process.open(data, replace(OPTIONS, has_preview=False))
    assert without.preview is None and without.notes == here.notes
    np.testing.assert_array_equal(without.image, here.image)


@pytest.mark.parametrize("format_name", readable_formats())
def test_a_process_answers_as_this_one_would(process: DecoderProcess, format_name: str) -> None:
    data = saved(scene(700, 300), format_name)
    assert_as_here(process, data)
    assert_as_here(process, data[: len(data) // 2])
    assert_as_here(process, data[:20])


@pytest.mark.parametrize("stretch", ["found", (0, 4095)])
def test_a_process_knows_the_rule_for_grey_and_the_colours_of_a_profile(
    process: DecoderProcess, stretch: Stretch
) -> None:
    options = replace(OPTIONS, stretch=stretch)
    grey = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    photograph = encoded(scene(700, 300), "JPEG", icc_profile=rgb_profile(P3_PRIMARIES))
    for data in (encoded(Image.fromarray(grey), "PNG"), photograph):
        np.testing.assert_array_equal(process.open(data, options).image, open_picture(data, options).image)
    assert process.open(encoded(Image.fromarray(grey), "PNG"), options).image.max() > 200


def test_a_process_reads_deep_and_transparent_pictures_and_names_what_it_cannot(process: DecoderProcess) -> None:
    rng, black = np.random.default_rng(0), chunk(b"tRNS", bytes(6))
    for colour_type, count in ((0, 1), (2, 3), (4, 2), (6, 4)):
        samples = rng.integers(0, 2, (300, 400, count)) * 300
        assert_as_here(process, png_of(samples, 16, colour_type, *([black] if colour_type in (0, 2) else [])))
    for sample_format, fill_order in ((1, 1), (2, 1), (1, 2)):
        layout = Storage(bits=16, sample_format=sample_format, fill_order=fill_order)
        assert_as_here(process, tiff_file(rng.integers(0, 4096, (64, 64, 1)), layout))


def test_real_pictures_are_answered_as_here(process: DecoderProcess, shared_data: Path) -> None:
    """Those of all kinds: a process that may open no file must not miss a module that one of them needs."""
    files = [file for folder in ("awkward", "hostile") for file in sorted((shared_data / folder).iterdir())]
    assert len(files) > 20
    for file in files:
        assert_as_here(process, file.read_bytes())


def test_a_process_has_no_secrets_and_opens_nothing(process: DecoderProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIONLENS_REDIS_SECRET", "secret" * 8)
    started = DecoderProcess(768 * MB, 2.0, PROGRAM)
    assert started.wait_until_ready()
    running = psutil.Process(started.pid)
    assert not [name for name in running.environ() if name.startswith("FUSIONLENS")]
    # Its standard input and outputs, a copy of the last for Python, and the socket.
    assert running.num_fds() == 5 and running.rlimit(psutil.RLIMIT_NOFILE) == (0, 0)
    for limit in (psutil.RLIMIT_FSIZE, psutil.RLIMIT_CORE, psutil.RLIMIT_NPROC):
        assert running.rlimit(limit) == (0, 0)
    assert running.rlimit(psutil.RLIMIT_AS) == (768 * MB, 768 * MB)
    started.close()
    assert not psutil.pid_exists(started.pid)


def test_a_picture_that_takes_too_long_ends_its_process() -> None:
    process = DecoderProcess(768 * MB, 0.05, PROGRAM)
    process.wait_until_ready()
    with pytest.raises(DecoderEnded, match="time"):
        process.open(BLACK, OPTIONS)
    assert not process.is_alive()


def test_a_picture_that_takes_too_much_memory_is_refused_and_costs_the_service_none() -> None:
    process = DecoderProcess(256 * MB, 20.0, PROGRAM)
    process.wait_until_ready()
    before = psutil.Process().memory_info().rss
    with pytest.raises(PictureTooLarge, match="more memory"):
        process.open(BLACK, OPTIONS)
    assert psutil.Process().memory_info().rss - before < 8 * MB
    assert_as_here(process, png_bytes())  # the process goes on
    assert psutil.Process(process.pid).memory_info().rss < 256 * MB
    process.close()


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie not in ("no answer", "the truth")])
def test_nothing_is_believed_that_cannot_be(lie: str) -> None:
    process = DecoderProcess(768 * MB, 2.0, LYING)
    assert process.wait_until_ready()
    with pytest.raises(DecoderEnded):
        process.open(lie.encode(), SMALL)
    assert not process.is_alive() and not psutil.pid_exists(process.pid)


def test_a_preview_that_was_not_asked_for_is_not_believed() -> None:
    process = DecoderProcess(768 * MB, 2.0, LYING)
    assert process.wait_until_ready()
    with pytest.raises(DecoderEnded, match="invalid_answer"):
        process.open(b"the truth", replace(SMALL, has_preview=False))


def test_what_could_be_true_is_believed_and_silence_can_be_ended() -> None:
    process = DecoderProcess(768 * MB, 2.0, LYING)
    process.wait_until_ready()
    told = process.open(b"the truth", SMALL).preview
    assert told is not None and told.shape == (20, 30, 3)
    process.close()
    silent = DecoderProcess(768 * MB, 2.0, LYING)
    silent.wait_until_ready()
    threading.Timer(0.1, silent.end, ["client_gone"]).start()
    with pytest.raises(DecoderEnded, match="client_gone"):
        silent.open(b"no answer", SMALL)


def with_decoders(
    test: Callable[[Decoders, Metrics], Coroutine[Any, Any, None]],
    cpu_s: float = 20.0,
    processes: int = 2,
    program: str = PROGRAM,
) -> None:
    """Run a test with processes that are ended afterwards."""

    async def run() -> None:
        metrics = Metrics()
        decoders = Decoders(DecoderOptions(processes, 768 * MB, cpu_s, queue_limit=64, program=program), metrics)
        await decoders.start()
        try:
            await test(decoders, metrics)
        finally:
            await decoders.close()

    tried(run)


def ends(metrics: Metrics, reason: str) -> float:
    """How many processes have ended for this reason."""
    return metrics.registry.get_sample_value("fusionlens_decoder_ends_total", {"reason": reason}) or 0


def children(program: str = PROGRAM) -> list[psutil.Process]:
    """The processes that decode pictures."""
    decoding = []
    for child in psutil.Process().children():
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            decoding += [child] * (program in child.cmdline())
    return decoding


def test_bombs_without_end_leave_as_many_processes_as_before() -> None:
    async def test(decoders: Decoders, metrics: Metrics) -> None:
        first = children()
        for n in range(4):
            with pytest.raises(UnreadablePicture, match=r"more than 0\.05 s of processor time"):
                await decoders.open(BLACK, OPTIONS, in_time(), f"user {n}")
            assert ends(metrics, "time") == n + 1
        opened = await decoders.open(png_bytes(), OPTIONS, in_time())
        assert opened.result.width_px == 96
        await so(lambda: len(children()) == len(first))

    with_decoders(test, cpu_s=0.05)


def test_a_caller_that_leaves_frees_the_place() -> None:
    async def test(decoders: Decoders, metrics: Metrics) -> None:
        leaving = asyncio.create_task(decoders.open(b"no answer", SMALL, in_time(), "one"))
        await asyncio.sleep(0.1)
        leaving.cancel()
        stayed = await decoders.open(b"the truth", SMALL, in_time(), "one")  # the same user, who has one place
        assert stayed.result.width_px == 30 and ends(metrics, "client_gone") == 1

    with_decoders(test, program=LYING)


def test_a_deadline_ends_what_runs() -> None:
    async def test(decoders: Decoders, metrics: Metrics) -> None:
        with pytest.raises(DeadlineExceeded):
            await decoders.open(b"no answer", SMALL, time.monotonic() + 0.1)
        assert ends(metrics, "deadline") == 1
        assert (await decoders.open(b"the truth", SMALL, in_time())).result.width_px == 30

    with_decoders(test, program=LYING)


def test_a_process_that_was_killed_from_outside_costs_nobody_an_answer() -> None:
    async def test(decoders: Decoders, metrics: Metrics) -> None:
        for child in children():
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        for n in range(4):
            assert (await decoders.open(png_bytes(), OPTIONS, in_time(), f"user {n}")).result.width_px == 96
        assert ends(metrics, "died") == 2

    with_decoders(test)


def test_nobody_has_the_last_process() -> None:
    async def test(decoders: Decoders, metrics: Metrics) -> None:
        greedy = [asyncio.create_task(decoders.open(b"no answer", SMALL, in_time(), "greedy")) for _ in range(12)]
        await so(lambda: decoders.queue.waiting == 11)
        for _ in range(3):
            assert (await decoders.open(b"the truth", SMALL, in_time(), "modest")).result.width_px == 30
        assert decoders.queue.waiting == 11
        for one in greedy:
            one.cancel()
        await asyncio.gather(*greedy, return_exceptions=True)

    with_decoders(test, program=LYING)


def test_processes_end_with_the_service() -> None:
    started: list[psutil.Process] = []

    async def test(decoders: Decoders, metrics: Metrics) -> None:
        started.extend(children(LYING))
        assert len(started) == 3
        await decoders.open(b"the truth", SMALL, in_time())

    with_decoders(test, processes=3, program=LYING)
    assert not any(process.is_running() for process in started)
