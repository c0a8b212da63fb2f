"""Past one machine: the application as a deployment of Ray Serve, by `serve run deploy/ray.yaml`.

Each replica makes the application that `fusionlens serve` makes. Ray listens, spreads requests, and starts and stops
replicas, so connections, signals and the address are its own.
"""

from __future__ import annotations

from typing import Any

import ray
from fastapi import FastAPI
from pydantic import ValidationError
from ray import serve
from ray.serve import Application

from app.api.routes.health import check_ready
from app.server.process import create_logging_app
from app.settings import Settings

NAME = "fusionlens"
DECIDED_BY_RAY = ("host", "port", "header_s", "drain_s", "threads")
SECRET_SETTINGS = ("redis_url", "redis_secret")
PROXY_ADDRESS = "Ray's HTTP proxy"  # no loopback address as far as we know: others may reach it


def application(args: dict[str, Any]) -> Application:
    """What `serve run` builds. `args` are settings by name, and come before those of the environment.

    They are checked here, before a replica starts. Raises KeysError where others could use it without a key, and
    ValueError for other settings that are wrong; see `replica_settings`.
    """
    replica_settings(args).check_exposure()
    deployment: Any = serve.deployment(serve.ingress()(Replica), name=NAME)
    application: Application = deployment.bind(args)
    return application


def replica_settings(args: dict[str, Any], threads: int = 1) -> Settings:
    """The settings of a replica on `threads` cores; several replicas are assumed, unless `workers` is 1.

    Raises ValueError for one that is unknown, wrong, Ray's to decide, or missing: several replicas need `redis_url`.
    """
    for name in args:
        if name in DECIDED_BY_RAY:
            raise ValueError(
                f"{name} is for Ray to decide: see http_options and ray_actor_options in its configuration"
            )
        if name in SECRET_SETTINGS:
            raise ValueError(f"Ray would show {name} to who sees its dashboard: set it in the environment of the nodes")
    try:
        return Settings(**{"workers": 2, **args, "host": PROXY_ADDRESS, "threads": threads})
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg']}" for fault in error.errors()]
        raise ValueError("; ".join(faults)) from None  # the cause quotes values, among them secrets


class Replica:
    """One replica, with a model of its own, as `ray.serve.ingress` wants it.

    It reads settings where it runs, so that secrets stay on the nodes. Ray runs the application's lifespan.
    """

    def __init__(self, args: dict[str, Any]) -> None:
        cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        settings = replica_settings(args, threads=max(1, int(cores)))
        if settings.workers == 1 and serve.get_replica_context().world_size > 1:
            raise ValueError("Ray was told to run several replicas, and the setting workers that there is one")
        self._app = create_logging_app(settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    async def check_health(self) -> None:
        """Asked by Ray, which replaces a replica that is not ready. Raises NotReady and StoreUnavailable."""
        await check_ready(self._app.state.models, self._app.state.lifecycle)
