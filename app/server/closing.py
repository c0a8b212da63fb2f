"""Closing a connection so that its last answer arrives, and giving up on clients that do not read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

LINGER_S, LINGER_BYTES = 10.0, 32 * 1024 * 1024  # of what a client still sends after its answer
STALL_S, MIN_READ_BYTES = 30.0, 30 * 1024  # in so many seconds a client must take so many bytes


class ClosingTransport:
    """The transport of one connection, with two bounds.

    `close` lets a client that is still sending read its answer first: only this direction is closed, and what comes is
    discarded, up to LINGER_S and LINGER_BYTES (RFC 9112, section 9.6). `is_receiving` says whether it is still sending.
    A client that takes fewer than MIN_READ_BYTES of its answer in STALL_S is disconnected.
    """

    def __init__(self, transport: Any, is_receiving: Callable[[], bool]) -> None:  # Any: uvloop has its own transports
        self._transport, self._is_receiving = transport, is_receiving
        self._loop = asyncio.get_running_loop()
        self._is_closing = self._is_lost = False
        self._is_paused = self._flow_pauses = self._is_held = False
        self._written_bytes = self._discarded_bytes = 0
        self._stall_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio.BaseTransport."""
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Whether nothing is answered any more."""
        return self._is_closing or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """See asyncio.WriteTransport."""
        if self.is_closing():
            return
        if not self.has_unread and self._stall_timer is not None:  # what was watched has been read
            self._stall_timer.cancel()
            self._stall_timer = None
        self._transport.write(data)
        self._written_bytes += len(data)
        if self._stall_timer is None and self.has_unread:
            self._watch_reader()

    @property
    def has_unread(self) -> bool:
        """Whether a part of what was written is still here, since the client does not take it."""
        return bool(self._transport.get_write_buffer_size())

    def close(self) -> None:
        """Close after what was written."""
        if self.is_closing():
            return
        self._is_closing = True
        if not self._is_receiving():
            self._transport.close()
            return
        self._pause_or_resume()
        self._transport.write_eof()
        self._linger_timer = self._loop.call_later(LINGER_S, self._end_linger)

    def close_now(self) -> None:
        """Close without waiting for what the client still sends, nor for its reading."""
        self._is_closing = True
        if self.has_unread:
            self._transport.abort()
        else:
            self._transport.close()

    def discard(self, nbytes: int) -> None:
        """Count what arrives while closing."""
        self._discarded_bytes += nbytes
        if self._discarded_bytes > LINGER_BYTES:
            self._transport.abort()

    def lost(self) -> None:
        """The connection is closed."""
        self._is_closing = self._is_lost = True
        for timer in (self._stall_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()

    def pause_reading(self) -> None:
        """See asyncio.ReadTransport: uvicorn has enough of a body."""
        self._flow_pauses = True
        self._pause_or_resume()

    def resume_reading(self) -> None:
        """See asyncio.ReadTransport. Nothing is read while the transport is held."""
        self._flow_pauses = False
        self._pause_or_resume()

    def hold(self, is_held: bool) -> None:
        """Read nothing more until what was read is parsed."""
        if is_held != self._is_held:
            self._is_held = is_held
            self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        pause = (self._flow_pauses or self._is_held) and not self._is_closing
        if pause == self._is_paused or self._transport.is_closing():
            return
        self._is_paused = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _end_linger(self) -> None:
        if self.has_unread:  # a slow reader, whom the other timer judges
            self._linger_timer = self._loop.call_later(LINGER_S, self._end_linger)
        else:
            self._transport.abort()

    def _watch_reader(self) -> None:
        self._stall_timer = self._loop.call_later(STALL_S, self._check_reader, self._taken_bytes())

    def _check_reader(self, before_bytes: int) -> None:
        self._stall_timer = None
        if not self.has_unread:
            return
        if self._taken_bytes() - before_bytes < MIN_READ_BYTES:
            self._transport.abort()
        else:
            self._watch_reader()

    def _taken_bytes(self) -> int:
        return self._written_bytes - int(self._transport.get_write_buffer_size())
