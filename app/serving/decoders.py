"""The processes that decode pictures for the service, and the queue in front of them."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import anyio
import anyio.to_thread

from app.errors import DeadlineExceeded, FusionLensError, NotReady
from app.pictures.opened import OpenOptions, open_picture
from app.predicting.prediction import Upload, upload_of
from app.serving.queue import TimedResult, WorkQueue, in_threads
from app.telemetry.metrics import Metrics

if os.name == "posix":
    from app.serving.decoder_process import DecoderEnded, DecoderProcess, EndReason, refusal_of

logger = logging.getLogger("fusionlens.decoders")
# A process whose client is gone may end its picture within this time, since starting another takes longer.
_GRACE_S = 0.1
_REPLACED_S = 2.0  # the time that another process usually has to be ready
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0  # before a process that did not start is started again


@dataclass(frozen=True)
class DecoderOptions:
    """How many processes decode pictures, and what one of them may use.

    `memory_bytes` is the address space of a process. `cpu_s` is the processor time that one picture may take.
    `queue_limit` is the number of pictures that may wait. `program` is the module that the processes run, which answers
    like `app.pictures.worker`.
    """

    processes: int
    memory_bytes: int
    cpu_s: float
    queue_limit: int
    program: str = "app.pictures.worker"


@dataclass(frozen=True)
class _Job:
    data: bytes
    options: OpenOptions
    deadline: float


class Decoders:
    """Decodes uploads in processes of their own, so that a hostile picture costs no more than its share.

    A process is ended, and replaced, if a picture takes too long or its client is gone. No user has all processes at
    once. On systems that are not POSIX, pictures are decoded in threads of this process, without these limits.
    """

    def __init__(self, options: DecoderOptions, metrics: Metrics) -> None:
        self._options, self._metrics = options, metrics
        work = self._decode if os.name == "posix" else in_threads(_open_here, options.processes)
        self.queue: WorkQueue[_Job, Upload] = WorkQueue(
            work, options.processes, options.queue_limit, max_passes_per_user=max(1, options.processes - 1)
        )
        self._threads = anyio.CapacityLimiter(options.processes)
        self._idle: asyncio.Queue[DecoderProcess] = asyncio.Queue()
        self._launched: deque[DecoderProcess] = deque()  # that nothing waits for yet
        self._processes: set[DecoderProcess] = set()
        self._starting: set[asyncio.Task[None]] = set()

    def launch(self) -> None:
        """Have all processes start while the caller does something else, before `start`."""
        if os.name == "posix":
            with suppress(OSError):  # `start` tries again
                while len(self._launched) < self._options.processes:
                    self._launched.append(self._launch_one())

    async def start(self) -> None:
        """Start all processes, and wait until they are ready."""
        if os.name != "posix":
            logger.warning("Pictures are decoded without limits of memory and time: this system is not POSIX.")
            return
        await asyncio.gather(*(self._start_one() for _ in range(self._options.processes)))

    async def close(self) -> None:
        """End all processes."""
        for task in self._starting:
            task.cancel()
        for process in (*self._launched, *self._processes):
            process.close()
        self._launched.clear()
        self._processes.clear()

    async def open(self, data: bytes, options: OpenOptions, deadline: float, user: str = "") -> TimedResult[Upload]:
        """Decode an upload. Raises DeadlineExceeded, Overloaded, and what `app.pictures.decode.decode` raises."""
        return await self.queue.run(_Job(data, options, deadline), deadline, user)

    async def _decode(self, jobs: Sequence[_Job]) -> list[Upload]:
        """The work of the queue: the one picture of a pass."""
        (job,) = jobs
        process = await self._take(job.deadline)
        opening = asyncio.ensure_future(anyio.to_thread.run_sync(_open_there, process, job, limiter=self._threads))
        try:
            if not (await asyncio.wait([opening], timeout=job.deadline - time.monotonic()))[0]:
                process.end("deadline")
                await asyncio.wait([opening])
        finally:
            if not opening.done():  # this pass was cancelled
                if not (await asyncio.wait([opening], timeout=_GRACE_S))[0]:
                    process.end("client_gone")
                await asyncio.wait([opening])
            opening.exception()  # so that asyncio does not report it, if nobody waits for it
            await self._give_back(process)
        try:
            return [opening.result()]
        except DecoderEnded as ended:
            raise self._refusal(ended.reason) from ended

    async def _take(self, deadline: float) -> DecoderProcess:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                while not (process := await self._idle.get()).is_alive():
                    await self._give_back(process)  # it ended while it was idle
                return process
        except TimeoutError as error:
            raise DeadlineExceeded("No process was free to decode the picture in time; try again later.") from error

    async def _give_back(self, process: DecoderProcess) -> None:
        """Keep a process for the next picture, or replace it if it has ended."""
        if process.end_reason is None:
            self._idle.put_nowait(process)
            return
        self._processes.discard(process)
        process.close()
        if process.end_reason == "closed":
            return
        self._metrics.decoder_ends.labels(process.end_reason).inc()
        logger.warning("A process that decodes pictures has ended (%s): another is started.", process.end_reason)
        task = asyncio.create_task(self._start_one())
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        # Until then this place stays taken: else its user would soon have the other processes, too.
        await asyncio.wait([task], timeout=_REPLACED_S)

    async def _start_one(self) -> None:
        """Start a process. If that fails, try again, with longer and longer pauses."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                process = await anyio.to_thread.run_sync(self._new_process)
            except (DecoderEnded, OSError) as error:
                logger.error("No process to decode pictures could be started (%s): trying again.", error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                self._processes.add(process)
                self._idle.put_nowait(process)
                return

    def _launch_one(self) -> DecoderProcess:
        return DecoderProcess(self._options.memory_bytes, self._options.cpu_s, self._options.program)

    def _new_process(self) -> DecoderProcess:
        try:
            process = self._launched.popleft()
        except IndexError:
            process = self._launch_one()
        if not process.wait_until_ready():
            logger.warning("The memory of processes that decode pictures is not limited: this system cannot do that.")
        return process

    def _refusal(self, reason: EndReason) -> FusionLensError:
        """What a picture is answered with whose process has ended."""
        if reason == "deadline":
            return DeadlineExceeded("The picture was not decoded within the time limit; try again later.")
        if reason == "closed":
            return NotReady("This service is about to stop: ask another replica.")
        return refusal_of(reason, self._options.cpu_s)


def _open_there(process: DecoderProcess, job: _Job) -> Upload:
    return upload_of(process.open(job.data, job.options))


def _open_here(jobs: Sequence[_Job]) -> list[Upload]:
    return [upload_of(open_picture(job.data, job.options)) for job in jobs]
