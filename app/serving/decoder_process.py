"""A process that decodes pictures, as the service sees it: it is started, asked, and ended at any time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

import app
from app.errors import PictureTooLarge, UnreadablePicture
from app.pictures.formats import MORE_FORMATS, SIGNATURES
from app.pictures.messages import BrokenMessage, ConnectionEnded, receive_message, send_message
from app.pictures.opened import OpenedPicture, OpenOptions
from app.pictures.worker import REFUSALS

EndReason = Literal["time", "deadline", "client_gone", "died", "invalid_answer", "closed"]
_REFUSALS = {refusal.__name__: refusal for refusal in REFUSALS}
_INHERITED = ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")  # no secrets
_CLOSING_S = 1.0  # from the end of the connection to the end of the process
_Side = Annotated[int, Field(ge=1, le=2**31)]


class DecoderEnded(Exception):
    """The process has ended before it answered, or it was ended because its answer was not valid."""

    def __init__(self, reason: EndReason) -> None:
        super().__init__(reason)
        self.reason = reason


class _Facts(BaseModel):
    """What a decoder says about a picture. It may have been taken over, so nothing is taken for granted."""

    model_config = ConfigDict(extra="forbid")

    width_px: _Side
    height_px: _Side
    format: Literal[*SIGNATURES, *MORE_FORMATS]  # type: ignore[valid-type]
    notes: Annotated[tuple[Annotated[str, Field(max_length=300)], ...], Field(max_length=8)]
    preview_size: tuple[_Side, _Side] | None


class _Refusal(BaseModel):
    model_config = ConfigDict(extra="forbid")

    error: Literal[*_REFUSALS]  # type: ignore[valid-type]
    message: Annotated[str, Field(max_length=1000)]


def refusal_of(reason: EndReason, cpu_s: float) -> UnreadablePicture:
    """What a picture is answered with that ended its process, whose limit of processor time was `cpu_s`."""
    if reason == "time":
        return UnreadablePicture(
            f"Decoding the picture took more than {cpu_s:g} s of processor time: "
            "send a smaller picture, or save it again as an ordinary JPEG."
        )
    return UnreadablePicture("The picture ended the process that decoded it: save it again as an ordinary JPEG.")


class DecoderProcess:
    """One process with limits for memory and for processor time per picture; blocking, for one caller at a time.

    `program` is a module that answers like `app.pictures.worker`.
    """

    def __init__(self, memory_bytes: int, cpu_s: float, program: str) -> None:
        self._connection, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        packages = [str(Path(app.__file__).parents[1]), environment.get("PYTHONPATH", "")]
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, packages))}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", program, str(theirs.fileno()), str(memory_bytes)]
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                [*command, str(cpu_s)],
                pass_fds=[theirs.fileno()],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self.end_reason: EndReason | None = None  # None while the process can be asked

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the process runs. If it has ended by itself, it counts as ended from now on."""
        if self._process.poll() is not None:
            self.end("died")
        return self.end_reason is None

    def wait_until_ready(self) -> bool:
        """Wait until the process has set its limits. Returns whether its memory is limited. Raises DecoderEnded."""
        facts, _ = self._receive(0)
        return facts.get("memory_is_limited") is True

    def open(self, data: bytes, options: OpenOptions) -> OpenedPicture:
        """Decode an upload there. Raises DecoderEnded, and what `app.pictures.decode.decode` raises."""
        try:
            send_message(self._connection, asdict(options), data)
        except ConnectionEnded as error:
            raise self._ended_by_itself() from error
        height, width = options.input_size
        input_bytes = height * width * 3
        facts, pixels = self._receive(input_bytes + options.preview_side_px**2 * 3)
        try:
            if "error" not in facts:
                return _opened(_Facts.model_validate(facts), pixels, options)
            refusal = _Refusal.model_validate(facts)
        except (ValueError, PictureTooLarge) as error:  # pydantic's ValidationError is a ValueError
            raise self._ended("invalid_answer") from error
        raise _REFUSALS[refusal.error](refusal.message)

    def end(self, reason: EndReason) -> None:
        """End the process at once, also while another thread waits for its answer: `open` raises DecoderEnded then."""
        self.end_reason = self.end_reason or reason
        self._process.kill()

    def close(self) -> None:
        """End the process and wait for its end."""
        self.end("closed")
        self._process.wait()
        self._connection.close()

    def _receive(self, max_bytes: int) -> tuple[dict[str, Any], bytearray]:
        try:
            return receive_message(self._connection, max_bytes)
        except ConnectionEnded as error:
            raise self._ended_by_itself() from error
        except BrokenMessage as error:
            raise self._ended("invalid_answer") from error

    def _ended_by_itself(self) -> DecoderEnded:
        """Why the process has closed the connection."""
        try:
            status = self._process.wait(timeout=_CLOSING_S)
        except subprocess.TimeoutExpired:
            return self._ended("invalid_answer")
        return self._ended("time" if sys.platform != "win32" and status == -signal.SIGPROF else "died")

    def _ended(self, reason: EndReason) -> DecoderEnded:
        """End what is left of the process, for this reason unless there was one before."""
        self.end(reason)
        self._process.wait()
        assert self.end_reason is not None
        return DecoderEnded(self.end_reason)


def _opened(facts: _Facts, pixels: bytearray, options: OpenOptions) -> OpenedPicture:
    """Raises ValueError and PictureTooLarge if the pixels do not match what was asked and what is said."""
    height, width = options.input_size
    if (facts.preview_size is not None) != options.has_preview:
        raise ValueError("a preview is sent where one is asked for, and only there")
    rows, columns = facts.preview_size or (0, 0)
    if max(rows, columns) > options.preview_side_px:
        raise ValueError("the preview is too large")
    options.limits.check("picture", facts.width_px, facts.height_px, can_reduce=True)
    both = np.frombuffer(pixels, np.uint8)
    image, preview = both[: height * width * 3], both[height * width * 3 :].reshape(rows, columns, 3)
    return OpenedPicture(
        facts.width_px,
        facts.height_px,
        facts.format,
        facts.notes,
        image.reshape(height, width, 3).copy(),
        preview if options.has_preview else None,
    )
