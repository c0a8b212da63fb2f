"""For who runs the service: its metrics, and a new bundle without a restart."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app import errors
from app.api.dependencies import RegistryDep
from app.api.middleware.access import Authenticator
from app.api.problems import error_responses
from app.api.routes.health import check_ready
from app.api.routes.predictions import model_version
from app.api.schemas import Reloaded
from app.serving.registry import ModelRegistry

logger = logging.getLogger("fusionlens.operation")
metrics_router, admin_router = APIRouter(tags=["operation"]), APIRouter(tags=["operation"], prefix="/admin")


@metrics_router.get(
    "/metrics",
    summary="Metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(models: RegistryDep, request: Request) -> Response:
    """What Prometheus scrapes. Where keys are set, it takes one with the right `metrics`."""
    metrics_now = models.current.metrics
    waiting = [service.waiting for service in models.services]
    for queue in waiting[0]:
        metrics_now.queue_length.labels(queue).set(sum(of_service[queue] for of_service in waiting))
    if (usage := await models.store.usage()) is not None:
        metrics_now.store_entries.set(usage.entries)
        metrics_now.store_bytes.set(usage.used_bytes)
    try:
        await check_ready(models, request.app.state.lifecycle)
        metrics_now.ready.set(1)
    except errors.FusionLensError:
        metrics_now.ready.set(0)
    return Response(generate_latest(metrics_now.registry), media_type=CONTENT_TYPE_LATEST)


@admin_router.post("/reload", summary="Load the bundle anew", responses=error_responses(errors.ReloadRefused))
async def reload(models: RegistryDep, request: Request) -> Reloaded:
    """Read the file of keys and the bundle's folder again. It takes a key with the right `admin`.

    A new bundle is verified and warmed up beside the old one, which answers until then; requests under way finish on
    it, and predictions that it made are explained by it until they expire.
    """
    changed = await reload_all(request.app.state.authenticator, models)
    return Reloaded(changed=changed, model=model_version(models.current.predictor))


async def reload_all(authenticator: Authenticator, models: ModelRegistry) -> bool:
    """What a reload does: keys, then the bundle. Returns whether another bundle is served. Raises ReloadRefused."""
    try:
        authenticator.read_keys()
    except errors.KeysError as error:
        raise errors.ReloadRefused(f"{error}. Keys and model stay as they are.") from error
    return await models.reload()


async def reload_logged(authenticator: Authenticator, models: ModelRegistry) -> None:
    """A reload that nobody waits for: what is wrong goes to the log."""
    try:
        await reload_all(authenticator, models)
    except errors.ReloadRefused as error:
        logger.error("Nothing was loaded: %s", error)
