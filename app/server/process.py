"""The server process: it listens, and runs uvicorn."""

from __future__ import annotations

import gc
import math
import shlex
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.main import STARTUP_FAILURE  # type: ignore[attr-defined]
from uvicorn.supervisors import Multiprocess

from app import __version__
from app.api.application import create_app
from app.engines.heap import limit_arenas
from app.errors import FusionLensError
from app.files import EXAMPLE
from app.options import predictor_options
from app.server.connections import Connections, room_for_connections
from app.server.http import BoundedHttp
from app.settings import Settings
from app.telemetry.logs import set_up_logs

KEEP_ALIVE_S = 65  # longer than the idle timeout of usual proxies, so that the proxy closes first


def serve(settings: Settings) -> int:
    """Serve until a signal stops the process. Returns the exit status.

    Raises BundleError, EngineError and KeysError before the port is opened, and OSError if it cannot be opened.
    """
    set_up_logs(settings.log)
    limit_arenas(settings.threads)
    if settings.workers > 1:
        create_app(settings)  # what each worker would refuse after the port is opened: keys, missing packages,
        predictor_options(settings).read_bundle()  # and a bundle that must not be served
        listener = _listen(settings)
        _announce(settings, listener)
        config = configure(partial(create_logging_app, settings), settings, factory=True, workers=settings.workers)
        supervisor = Multiprocess(config, sockets=[listener])
        supervisor.run()
        if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
            print("fusionlens: The worker processes did not start: the log says why.", file=sys.stderr)
            return 1
        return 0
    app = create_app(settings)
    app.state.models.load()  # so that a bundle that must not be served is refused before the port is opened
    _freeze()
    listener, server = _listen(settings), uvicorn.Server(configure(app, settings))
    _announce(settings, listener)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)  # uvicorn raises the signal again after its graceful shutdown
    server.run(sockets=[listener])
    return 0 if server.started else 1


def configure(app: FastAPI | Callable[[], FastAPI], settings: Settings, **options: Any) -> uvicorn.Config:
    """The configuration of uvicorn for an application or, with the option `factory`, a function that creates one.

    uvicorn logs nothing itself: `TelemetryMiddleware` does.
    """
    pool = Connections(room_for_connections(settings.max_connections))
    return uvicorn.Config(
        app,
        http=partial(BoundedHttp, header_s=settings.header_s, pool=pool),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.deadline_s),
        **options,
    )


def create_logging_app(settings: Settings) -> FastAPI:
    """Set up the logs, then create the application: the factory for new worker processes.

    Ends the process after a sentence if the application cannot be created. With another status than this one, uvicorn
    would start workers without end.
    """
    set_up_logs(settings.log)
    limit_arenas(settings.threads)
    try:
        app = create_app(settings)
    except FusionLensError as error:
        print(f"fusionlens: {error}", file=sys.stderr)
        raise SystemExit(STARTUP_FAILURE) from error
    _freeze()
    return app


def _freeze() -> None:
    """Spare the garbage collector what stays until the end: going through it all would stop every request for 0.1 s."""
    gc.collect()
    gc.freeze()


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        # "::" means all addresses of this machine, those of IPv4 included.
        both = settings.host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048, dualstack_ipv6=both)
    except OSError as error:
        reason = f"cannot listen on {settings.host} port {settings.port}: {error.strerror}"
        raise OSError(f"{reason}. Choose another with --host and --port.") from error


def _announce(settings: Settings, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
    if settings.log == "json":
        structlog.stdlib.get_logger("fusionlens.server").info("serving", address=address, bundle=str(settings.bundle))
        return
    picture, key = shlex.quote(f"file=@{EXAMPLE}"), ' -H "Authorization: Bearer $KEY"' if settings.keys else ""
    print(
        f"FusionLens {__version__} serves {settings.bundle} at {address}\n\n"
        f"  curl{key} -F {picture} {address}/predict\n"
        f"  curl{key} -F {picture} {address}/gradcam -o overlay.png\n",
        flush=True,
    )
