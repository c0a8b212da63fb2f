"""The application: its routes, over a bundle that is loaded before anything is served."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from app import __version__
from app.api import explanations, health, model, predictions, problems
from app.api.openapi import DocumentedAPI
from app.inference.service import Service
from app.settings import Settings

WEB = Path(__file__).parent / "web"
DESCRIPTION = """\
An image classifier that shows its work. Post a picture to `/predict`, then ask `/gradcam` what speaks for a class and
`/attention` where one branch looks in the other. Errors are `application/problem+json` and say what to do.
"""


def create_app(settings: Settings, service: Service | None = None) -> FastAPI:
    """The routes over a loaded `service`. Where none is given, the lifespan loads what the settings name.

    The lifespan then raises BundleError or EngineError before a request is accepted.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = service or Service.from_settings(settings)
        yield

    app = DocumentedAPI(
        title="FusionLens",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        responses=problems.ANY_OTHER,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.settings = settings
    # It would log every malformed form; the sender is told, and nobody else needs to know.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    problems.install(app)
    for module in (predictions, explanations, model, health):
        app.include_router(module.router)
    # Not mounted at "/": a mount there would answer 404 where a route has another method, which is a 405.
    app.mount("/web", StaticFiles(directory=WEB), name="web")
    app.add_api_route("/", page, include_in_schema=False)
    return app


async def page() -> FileResponse:
    """The page for people."""
    return FileResponse(WEB / "index.html")
