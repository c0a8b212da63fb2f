"""Signal handling: SIGTERM drains the service before it stops, SIGHUP reloads the bundle."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Lifecycle:
    """The state of the process. While `draining`, requests are still answered, but the service is not ready.

    Connections are then closed after each answer. `drain_s` is how long this lasts.
    """

    def __init__(self, drain_s: float) -> None:
        self._drain_s, self.draining = drain_s, False
        self._reloading: set[asyncio.Task[None]] = set()

    @contextmanager
    def handle_signals(self, reload: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[None]:
        """Handle SIGTERM and SIGHUP within the context; the previous handlers are restored after it.

        On SIGTERM, the drain starts, and the server's own handler is called when it is over. A second SIGTERM calls
        that handler at once, as SIGINT always does. On SIGHUP, `reload` runs as a task. Outside the main thread, where
        Python allows no signal handlers, this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop, server_handler = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

        def stop_now() -> None:
            if callable(server_handler):
                server_handler(signal.SIGTERM, None)

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
