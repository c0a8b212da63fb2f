"""The application: its routes, over models that are loaded before anything is served."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware

from app import __version__
from app.api import explanations, health, model, operation, predictions, problems
from app.api.access import Access, Doorkeeper
from app.api.admission import Admission
from app.api.limits import Limiter
from app.api.observed import Observed
from app.api.openapi import DocumentedAPI
from app.api.uploads import UploadMemory
from app.errors import EngineError
from app.inference.loaded import LoadedModels
from app.inference.store import MemoryStore, PredictionStore
from app.lifecycle import Lifecycle
from app.metrics import Metrics
from app.settings import Settings
from app.traces import make_tracing

WEB = Path(__file__).parent / "web"
DESCRIPTION = """\
An image classifier that shows its work. Post a picture to `/predict`, then ask `/gradcam` what speaks for a class and
`/attention` where one branch looks in the other. Errors are `application/problem+json` and say what to do.
"""
# The page is of this host alone, and of nobody's frame.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_CDN = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0/"
DOCS_HEADERS = PAGE_HEADERS | {
    "Content-Security-Policy": f"default-src 'none'; script-src 'self' {_CDN}; style-src {_CDN} 'unsafe-inline'; "
    "connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
ASKED_HEADERS = ["Authorization", "Content-Type", "If-None-Match", "X-API-Key", "X-Request-ID"]
ANSWERED_HEADERS = ["ETag", "FusionLens-Explanation", "Retry-After", "X-Request-ID"]


def create_app(settings: Settings) -> FastAPI:
    """The application. Its lifespan loads the models, if `app.state.models` has not loaded them before.

    The lifespan raises BundleError or EngineError before a request is accepted. Raises KeysError where keys
    are missing or cannot be used, and EngineError where a package is missing that a setting needs.
    """
    settings.check_exposure()
    metrics, tracing, lifecycle = Metrics(), make_tracing(settings.otlp_endpoint), Lifecycle(settings.drain_s)
    store, limiter = _store_and_limiter(settings, metrics)
    models = LoadedModels(settings, store, metrics, tracing.record)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if not models.loaded:
            models.load()
        await models.check()
        with lifecycle.taking_signals(partial(operation.reload_logged, app.state.doorkeeper, models)):
            yield
        await store.close()
        tracing.shutdown()

    app = DocumentedAPI(
        title="FusionLens",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        responses=problems.ANY_OTHER,
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
    )
    app.state.settings, app.state.models, app.state.lifecycle = settings, models, lifecycle
    app.state.doorkeeper = Doorkeeper(settings.keys, limiter)
    app.state.upload_memory = UploadMemory(settings.uploads_max_bytes)
    # It would log every malformed form; the sender is told, and nobody else needs to know.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    problems.install(app)
    routers = [predictions.router, explanations.router, model.router, health.router, operation.admin_router]
    for router in routers + [operation.metrics_router] * settings.metrics:
        app.include_router(router)
    # Not mounted at "/": a mount there would answer 404 where a route has another method, which is a 405.
    app.mount("/web", PageFiles(directory=WEB), name="web")
    app.add_api_route("/", page, include_in_schema=False)
    if settings.docs:
        app.add_api_route("/docs", docs, include_in_schema=False)
    _add_middleware(app, metrics)
    tracing.instrument(app)
    return app


def _store_and_limiter(settings: Settings, metrics: Metrics) -> tuple[PredictionStore, Limiter]:
    if settings.redis_url is None or settings.redis_secret is None:
        metrics.store_up.set(1)
        return MemoryStore(settings.store_ttl_s, settings.store_max_bytes, metrics), Limiter()
    try:
        from app.api.redis_limits import RedisLimits
        from app.inference.redis_client import SharedRedis, connect
        from app.inference.redis_store import RedisStore
    except ModuleNotFoundError as error:
        raise EngineError("redis_url needs a package: pip install 'fusionlens[redis]'.") from error
    shared = SharedRedis(connect(settings.redis_url.get_secret_value(), settings.redis_timeout_s), metrics)
    secret = settings.redis_secret.get_secret_value().encode()
    store = RedisStore(shared, secret, settings.store_ttl_s, settings.store_max_entry_bytes, metrics)
    return store, Limiter(RedisLimits(shared))


def _add_middleware(app: FastAPI, metrics: Metrics) -> None:
    """The last one added is the outermost: what the doorkeeper refuses is counted too, and CORS holds for it."""
    app.add_middleware(Admission, models=app.state.models)
    app.add_middleware(Access, doorkeeper=app.state.doorkeeper)
    if origins := app.state.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=ASKED_HEADERS,
            expose_headers=ANSWERED_HEADERS,
        )
    app.add_middleware(Observed, metrics=metrics, lifecycle=app.state.lifecycle)


class PageFiles(StaticFiles):
    """The page's modules. A browser asks each time whether they changed, so that it never mixes two versions."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """See StaticFiles."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


async def page() -> FileResponse:
    """The page for people."""
    return FileResponse(WEB / "index.html", headers=PAGE_HEADERS)


async def docs() -> FileResponse:
    """The routes. Its script is of another host, and is not run unless it is the one that is meant."""
    return FileResponse(WEB / "docs.html", headers=DOCS_HEADERS)
