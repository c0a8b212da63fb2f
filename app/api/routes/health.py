"""Routes for probes: liveness and readiness."""

from __future__ import annotations

from fastapi import APIRouter, Request

from app import errors
from app.api.dependencies import RegistryDep
from app.api.keys.access import requires
from app.api.problems import error_responses
from app.api.schemas import Health
from app.serving.lifecycle import Lifecycle
from app.serving.registry import ModelRegistry

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live", summary="Is the process up?")
@requires(None)
async def live() -> Health:
    """The process answers. This depends on nothing else."""
    return Health(status="live")


@router.get(
    "/ready",
    summary="Does the service accept new clients?",
    responses=error_responses(errors.NotReady, errors.StoreUnavailable),
)
@requires(None)
async def ready(models: RegistryDep, request: Request) -> Health:
    """The bundle is verified and warmed up, and the store has been reached once.

    The service stays ready if the store is lost later, because it can still predict. It is no longer ready once it has
    been told to stop.
    """
    await check_ready(models, request.app.state.lifecycle)
    return Health(status="ready")


async def check_ready(models: ModelRegistry, lifecycle: Lifecycle) -> None:
    """Raises NotReady while the service is draining, and StoreUnavailable if the store was never reached."""
    if lifecycle.draining:
        raise errors.NotReady("This service is about to stop: ask another replica.")
    await models.store.check()
