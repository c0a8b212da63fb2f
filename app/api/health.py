"""Health: the process is up; the model can answer."""

from __future__ import annotations

from fastapi import APIRouter

from app.api.dependencies import TheService
from app.api.schemas import Health

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live", summary="Is the process up?")
async def live() -> Health:
    """The process answers. Depends on nothing else."""
    return Health(status="live")


@router.get("/ready", summary="Can the model answer?")
async def ready(service: TheService) -> Health:
    """The bundle is verified and has answered a warm-up prediction: before that, nothing is listening."""
    return Health(status="ready")
