"""The application: its routes, and a lifespan that loads the bundle before anything is served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from app import __version__
from app.api import explanations, health, model, predictions, problems
from app.inference.service import Service
from app.settings import Settings

DESCRIPTION = """\
An image classifier that shows its work. Post a picture to `/predict`, then ask `/gradcam` what speaks for a class and
`/attention` where one branch looks in the other. Errors are `application/problem+json` and say what to do.
"""


def create_app(settings: Settings) -> FastAPI:
    """The service over HTTP. Its lifespan raises BundleError or EngineError before a request is accepted."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = Service.from_settings(settings)
        yield

    app = FastAPI(title="FusionLens", version=__version__, description=DESCRIPTION, lifespan=lifespan)
    app.state.settings = settings
    problems.install(app)
    for module in (predictions, explanations, model, health):
        app.include_router(module.router)
    app.mount("/", StaticFiles(directory=Path(__file__).parent / "web", html=True), name="web")
    return app
