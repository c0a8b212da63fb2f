"""Routes for operators: metrics, and reloading without a restart."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app import errors
from app.api.dependencies import RegistryDep
from app.api.keys.access import Authenticator, refuse_cross_site, requires
from app.api.problems import error_responses
from app.api.routes.health import check_ready
from app.api.routes.predictions import model_version
from app.api.schemas import Reloaded
from app.serving.registry import ModelRegistry

logger = logging.getLogger("fusionlens.operation")
metrics_router = APIRouter(tags=["operation"])
admin_router = APIRouter(tags=["operation"], prefix="/admin", dependencies=[Depends(refuse_cross_site)])


@metrics_router.get(
    "/metrics",
    summary="Metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
@requires("metrics")
async def metrics(models: RegistryDep, request: Request) -> Response:
    """Metrics for Prometheus. If the service has keys, this requires one with the right `metrics`."""
    metrics_now = models.current.metrics
    waiting = [service.waiting for service in models.services]
    for queue in waiting[0]:
        metrics_now.queue_length.labels(queue).set(sum(by_queue[queue] for by_queue in waiting))
    if (usage := await models.store.usage()) is not None:
        metrics_now.store_entries.set(usage.entries)
        metrics_now.store_bytes.set(usage.used_bytes)
    try:
        await check_ready(models, request.app.state.lifecycle)
        metrics_now.ready.set(1)
    except errors.FusionLensError:
        metrics_now.ready.set(0)
    return Response(generate_latest(metrics_now.registry), media_type=CONTENT_TYPE_LATEST)


@admin_router.post("/reload", summary="Reload keys and bundle", responses=error_responses(errors.ReloadRefused))
@requires("admin")
async def reload(models: RegistryDep, request: Request) -> Reloaded:
    """Read the key file and the bundle again. This requires a key with the right `admin`.

    A new bundle is verified and warmed up while the old one still answers. Running requests finish with the old bundle,
    which also explains its own predictions until they expire.
    """
    changed = await reload_all(request.app.state.authenticator, models)
    return Reloaded(changed=changed, model=model_version(models.current.predictor))


async def reload_all(authenticator: Authenticator, models: ModelRegistry) -> bool:
    """Reload the keys, then the bundle. Returns whether another bundle is served now. Raises ReloadRefused."""
    try:
        authenticator.read_keys()
    except errors.KeysError as error:
        raise errors.ReloadRefused(f"{error}. Keys and model stay as they are.") from error
    return await models.reload()


async def reload_logged(authenticator: Authenticator, models: ModelRegistry) -> None:
    """Reload without a caller, as on SIGHUP: an error is logged."""
    try:
        await reload_all(authenticator, models)
    except errors.ReloadRefused as error:
        logger.error("Nothing was loaded: %s", error)
