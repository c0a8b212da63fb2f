"""Health: the process is up; it takes new clients."""

from __future__ import annotations

from fastapi import APIRouter, Request

from app import errors
from app.api.dependencies import RegistryDep
from app.api.problems import error_responses
from app.api.schemas import Health
from app.serving.lifecycle import Lifecycle
from app.serving.registry import ModelRegistry

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live", summary="Is the process up?")
async def live() -> Health:
    """The process answers. Depends on nothing else."""
    return Health(status="live")


@router.get(
    "/ready",
    summary="Does it take new clients?",
    responses=error_responses(errors.NotReady, errors.StoreUnavailable),
)
async def ready(models: RegistryDep, request: Request) -> Health:
    """The bundle is verified and has answered a warm-up prediction, and the store was reached.

    A store that is lost later does not change that, since predictions go on. What changes it is the order to stop.
    """
    await check_ready(models, request.app.state.lifecycle)
    return Health(status="ready")


async def check_ready(models: ModelRegistry, lifecycle: Lifecycle) -> None:
    """Raises NotReady and StoreUnavailable."""
    if lifecycle.draining:
        raise errors.NotReady("This service is about to stop: ask another replica.")
    await models.store.check()
