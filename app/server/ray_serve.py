"""The application as a deployment of Ray Serve on several machines: `serve run deploy/ray.yaml`.

Each replica creates the same application as `fusionlens serve`. Ray listens, distributes the requests, and starts and
stops the replicas, so the settings for connections, signals and the address do not apply.
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
# Ray's proxy is assumed to be reachable from other machines.
PROXY, ANY_ADDRESS = "Ray's HTTP proxy", "0.0.0.0"  # noqa: S104 - a replica itself listens on none


def application(args: dict[str, Any]) -> Application:
    """The Ray Serve application. `args` are settings by name, and win over environment variables.

    The settings are checked here, before a replica starts. Raises KeysError if other machines could use the service
    without a key, and ValueError for other invalid settings: see `replica_settings`.
    """
    replica_settings(args).check_exposure(PROXY)
    deployment: Any = serve.deployment(serve.ingress()(Replica), name=NAME)
    application: Application = deployment.bind(args)
    return application


def replica_settings(args: dict[str, Any], threads: int = 1) -> Settings:
    """The settings of a replica on `threads` cores. Several replicas are assumed unless `workers` is 1.

    Raises ValueError for a setting that is unknown, invalid, secret, or decided by Ray, and for a missing `redis_url`
    where there are several replicas.
    """
    for name in args:
        if name in DECIDED_BY_RAY:
            raise ValueError(
                f"{name} is for Ray to decide: see http_options and ray_actor_options in its configuration"
            )
        if name in SECRET_SETTINGS:
            raise ValueError(f"Ray would show {name} on its dashboard: set it in the environment of the nodes")
    try:
        return Settings(**{"workers": 2, **args, "host": ANY_ADDRESS, "threads": threads})
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg']}" for fault in error.errors()]
        raise ValueError("; ".join(faults)) from None  # the cause quotes values, and some of them are secrets


class Replica:
    """One replica with its own model, in the form that `ray.serve.ingress` requires.

    It reads the environment of its own node, so that secrets stay on the nodes. Ray runs the application's lifespan.
    """

    def __init__(self, args: dict[str, Any]) -> None:
        cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        settings = replica_settings(args, threads=max(1, int(cores)))
        if settings.workers == 1 and serve.get_replica_context().world_size > 1:
            raise ValueError(
                "Ray runs several replicas, but the setting workers is 1: leave workers out, or run one replica"
            )
        self._app = create_logging_app(settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    async def check_health(self) -> None:
        """Called by Ray, which replaces a replica whose check fails. Raises NotReady and StoreUnavailable."""
        await check_ready(self._app.state.models, self._app.state.lifecycle)
