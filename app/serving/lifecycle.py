"""Signals: SIGTERM lets proxies notice before the server stops, SIGHUP loads the bundle anew."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Lifecycle:
    """While `draining`, requests are answered as ever, but readiness is off and connections are closed."""

    def __init__(self, drain_s: float) -> None:
        self._drain_s, self.draining = drain_s, False
        self._reloading: set[asyncio.Task[None]] = set()

    @contextmanager
    def handle_signals(self, reload: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[None]:
        """Stand before the server's own handler of SIGTERM, which is called when the drain is over.

        A second SIGTERM is the server's at once, as SIGINT always is. Outside the main thread signals are not ours.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop, stop = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

        def stop_now() -> None:
            if callable(stop):
                stop(signal.SIGTERM, None)

        def on_stop(number: int, frame: FrameType | None) -> None:
            if self.draining or self._drain_s == 0:
                stop_now()
            else:
                loop.call_soon_threadsafe(loop.call_later, self._drain_s, stop_now)
            self.draining = True

        def on_reload(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._start_reload, reload)

        handlers: dict[int, Any] = {signal.SIGTERM: on_stop}
        if hasattr(signal, "SIGHUP"):
            handlers[signal.SIGHUP] = on_reload
        previous_handlers = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in previous_handlers.items():
                signal.signal(number, handler)

    def _start_reload(self, reload: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.ensure_future(reload())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)
