"""Creates the application: its routes, its middleware, and a lifespan that loads the bundle."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from app import __version__
from app.api import problems
from app.api.dependencies import received_upload
from app.api.keys.access import Authenticator, authorize, authorize_unrouted
from app.api.keys.limits import Limiter
from app.api.middleware.admission import AdmissionMiddleware
from app.api.middleware.connection import ConnectionMiddleware
from app.api.middleware.head import HeadMiddleware
from app.api.middleware.plain_errors import PlainErrorMiddleware
from app.api.middleware.prefix import PrefixMiddleware
from app.api.middleware.target import TargetMiddleware
from app.api.middleware.telemetry import TelemetryMiddleware
from app.api.openapi import DocumentedAPI
from app.api.options import decoder_options, registry_options
from app.api.parameters import check_query
from app.api.routes import explanations, health, model, operation, pages, predictions, similar
from app.api.uploads import UploadMemory
from app.errors import EngineError
from app.files import WEB
from app.serving.decoders import Decoders
from app.serving.lifecycle import Lifecycle
from app.serving.registry import ModelRegistry
from app.serving.stores.memory import MemoryStore
from app.serving.stores.protocol import PredictionStore
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.telemetry.traces import make_tracing

DESCRIPTION = """\
An image classifier that explains its answers. Post a picture to `/predict`. Then `/explain` shows what speaks for a
class, and `/attention` where the transformer's tokens look. Errors are `application/problem+json` and say what to do.
"""
TRACE_HEADERS = ["traceparent", "tracestate"]  # W3C Trace Context
REQUEST_HEADERS = ["Authorization", "Content-Type", "If-None-Match", "X-API-Key", "X-Request-ID", *TRACE_HEADERS]
RESPONSE_HEADERS = ["ETag", "FusionLens-Explanation", "Retry-After", "X-Request-ID", *TRACE_HEADERS]


def create_app(settings: Settings) -> FastAPI:
    """Create the application. Its lifespan loads the bundle, unless `app.state.models` has loaded it before.

    Raises KeysError if keys are missing or cannot be used, and EngineError if a package for a setting is missing. The
    lifespan raises BundleError and EngineError before a request is accepted.
    """
    settings.check_exposure()
    metrics, tracing, lifecycle = Metrics(), make_tracing(settings.otlp_endpoint), Lifecycle(settings.drain_s)
    store, limiter = _store_and_limiter(settings, metrics)
    decoders = Decoders(decoder_options(settings), metrics)
    models = ModelRegistry(registry_options(settings), store, decoders, metrics, tracing.record)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Metrics]]:
        async with AsyncExitStack() as opened:
            opened.callback(tracing.shutdown)
            opened.push_async_callback(store.close)
            opened.push_async_callback(decoders.close)
            if not models.services:
                models.load()
            await decoders.start()
            await models.probe_store()
            with lifecycle.handle_signals(partial(operation.reload_logged, app.state.authenticator, models)):
                yield {"metrics": metrics}  # for the server, whose refusals no middleware sees

    app = DocumentedAPI(
        title="FusionLens",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        dependencies=[Depends(authorize), Depends(check_query)],
        redirect_slashes=False,  # a redirect would tell those without a key what there is
        responses=problems.DEFAULT_RESPONSE,
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
    )
    app.state.settings, app.state.models, app.state.lifecycle = settings, models, lifecycle
    app.state.authenticator = Authenticator(settings.keys, limiter)
    app.state.upload_memory = UploadMemory(settings.uploads_max_bytes)
    # python_multipart would log every malformed form, but the error answer already tells the sender.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    problems.install_handlers(app, authorize_unrouted)
    routers = [module.router for module in (predictions, explanations, similar, model, health)]
    routers += [operation.admin_router, *[operation.metrics_router] * settings.metrics]
    for router in routers:
        app.include_router(router)
    # Not mounted at "/": a mount there would answer 404 instead of 405 for a wrong method on another route.
    app.mount("/web", pages.PageFiles(directory=WEB), name="web")
    app.add_api_route("/", pages.page, include_in_schema=False)
    if settings.docs:
        app.add_api_route("/docs", pages.docs, include_in_schema=False)
    app.add_middleware(
        AdmissionMiddleware, routes=_upload_routes(routers), models=models, authenticator=app.state.authenticator
    )
    _add_middleware(app, metrics)
    tracing.instrument(app)
    return app


def _store_and_limiter(settings: Settings, metrics: Metrics) -> tuple[PredictionStore, Limiter]:
    if settings.redis_url is None or settings.redis_secret is None:
        metrics.store_up.set(1)
        return MemoryStore(settings.store_ttl_s, settings.store_max_bytes, metrics), Limiter()
    try:
        from app.api.keys.redis_limits import RedisLimits
        from app.serving.stores.redis import RedisStore
        from app.serving.stores.redis_client import SharedRedis, connect
    except ModuleNotFoundError as error:
        raise EngineError("redis_url needs the package redis: pip install 'fusionlens[redis]'.") from error
    shared = SharedRedis(connect(settings.redis_url.get_secret_value(), settings.redis_timeout_s), metrics)
    secret = settings.redis_secret.get_secret_value().encode()
    store = RedisStore(shared, secret, settings.store_ttl_s, settings.store_max_entry_bytes, metrics)
    return store, Limiter(RedisLimits(shared))


def _upload_routes(routers: Iterable[APIRouter]) -> dict[str, APIRoute]:
    """The routes that take a picture, by their path."""
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    return {
        route.path: route
        for route in routes
        if any(dependency.call is received_upload for dependency in route.dependant.dependencies)
    }


def _add_middleware(app: FastAPI, metrics: Metrics) -> None:
    """Add the middleware. The last one added is the outermost, so refused requests are counted and get CORS headers."""
    if prefix := app.state.settings.root_path:
        app.add_middleware(PrefixMiddleware, prefix=prefix)
    app.add_middleware(TargetMiddleware)
    if origins := app.state.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=REQUEST_HEADERS,
            expose_headers=RESPONSE_HEADERS,
        )
    app.add_middleware(PlainErrorMiddleware)
    app.add_middleware(HeadMiddleware)
    app.add_middleware(TelemetryMiddleware, metrics=metrics)
    app.add_middleware(ConnectionMiddleware, lifecycle=app.state.lifecycle)
