"""The real service on a real socket: uvicorn on a free loopback port, in a thread of the test process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from fastapi import FastAPI

from app.api.application import create_app
from app.server.process import configure
from app.settings import Settings
from tests.support.waiting import PATIENCE_S


@contextmanager
def serving(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a service with these settings. Raises RuntimeError if the service does not start."""
    with serving_app(create_app(settings)) as client:
        yield client


@contextmanager
def serving_app(app: FastAPI) -> Iterator[httpx.Client]:
    """A client of this application, for tests that look into it."""
    server = uvicorn.Server(configure(app, app.state.settings))
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="uvicorn")
        thread.start()
        try:
            while not server.started:
                if not thread.is_alive():
                    raise RuntimeError("the service did not start; the log says why")
                time.sleep(0.005)
            host, port = listener.getsockname()
            with httpx.Client(base_url=f"http://{host}:{port}", timeout=PATIENCE_S, trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()
