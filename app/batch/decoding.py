"""Decodes the pictures of a job in processes of their own, beside the model."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from queue import SimpleQueue

from app.batch.refusals import JobEnded, JobRefused
from app.pictures.opened import OpenedPicture, OpenOptions, open_picture

if os.name == "posix":
    from app.serving.decoder_process import DecoderEnded, DecoderProcess, refusal_of

logger = logging.getLogger("fusionlens.batch")


@dataclass(frozen=True)
class DecodingOptions:
    """How many processes decode pictures, and what one of them may use.

    `memory_bytes` is the address space of a process, `cpu_s` the processor time that one picture may take, and
    `picture_bytes` the largest file that is read. `program` is a module that answers like `app.pictures.worker`.
    """

    processes: int
    memory_bytes: int
    cpu_s: float
    picture_bytes: int
    program: str = "app.pictures.worker"


class DecoderPool:
    """So many processes, each for one thread at a time. They start at once, and end with this process in any case.

    On systems that are not POSIX, pictures are decoded in the calling thread, without limits. Raises JobRefused if a
    process does not start.
    """

    def __init__(self, options: DecodingOptions) -> None:
        self._options = options
        self._idle: SimpleQueue[DecoderProcess] = SimpleQueue()
        self._all: set[DecoderProcess] = set()
        self._is_closed = False
        if os.name == "posix":
            try:
                for process in [self._launch() for _ in range(options.processes)]:
                    process.wait_until_ready()
                    self._idle.put(process)
            except DecoderEnded as ended:
                raise JobRefused(
                    f"No process that decodes pictures could be started ({ended}): is decoder_max_bytes too small?"
                ) from ended

    def open(self, data: bytes, options: OpenOptions) -> OpenedPicture:
        """Decode a picture. Raises what `app.pictures.decode.decode` raises, and JobEnded if no process can be started.

        Something else than the picture may have ended the process, so it gets a second one, unless its time was over.
        """
        if os.name != "posix":
            return open_picture(data, options)
        try:
            return self._open_once(data, options)
        except DecoderEnded as ended:
            if ended.reason == "time" or self._is_closed:
                raise refusal_of(ended.reason, self._options.cpu_s) from ended
            logger.warning("A process that decodes pictures has ended (%s): another tries again.", ended.reason)
        try:
            return self._open_once(data, options)
        except DecoderEnded as ended:
            raise refusal_of(ended.reason, self._options.cpu_s) from ended

    def close(self) -> None:
        """End all processes, also while they decode."""
        self._is_closed = True
        for process in tuple(self._all):
            process.close()

    def _open_once(self, data: bytes, options: OpenOptions) -> OpenedPicture:
        process = self._idle.get()
        try:
            if process.end_reason is not None and not self._is_closed:
                process = self._replace(process)
            return process.open(data, options)
        finally:
            self._idle.put(process)  # one that has ended too: another thread may be waiting for it

    def _replace(self, ended: DecoderProcess) -> DecoderProcess:
        """A process in place of one that has ended. Raises JobEnded if none can be started."""
        ended.close()
        self._all.discard(ended)
        try:
            process = self._launch()
            process.wait_until_ready()
        except (DecoderEnded, OSError) as error:
            raise JobEnded(
                f"A process that decodes pictures has ended, and none could be started in its place ({error}). The "
                "same command goes on from there."
            ) from error
        return process

    def _launch(self) -> DecoderProcess:
        process = DecoderProcess(self._options.memory_bytes, self._options.cpu_s, self._options.program)
        self._all.add(process)
        return process
