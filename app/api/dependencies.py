"""The dependencies of routes. They are async, because FastAPI would run plain functions in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from starlette.requests import ClientDisconnect

from app.api.keys.users import user_of
from app.api.uploads import ReceivedUpload, read_upload
from app.serving.registry import ModelRegistry
from app.serving.service import Service
from app.settings import Settings

T = TypeVar("T")


async def get_registry(request: Request) -> ModelRegistry:
    """The registry of loaded models."""
    models: ModelRegistry = request.app.state.models
    return models


async def get_service(models: Annotated[ModelRegistry, Depends(get_registry)]) -> Service:
    """The current service. A request keeps it, even if another bundle is loaded meanwhile."""
    return models.current


async def get_settings(request: Request) -> Settings:
    """The settings of the application."""
    settings: Settings = request.app.state.settings
    return settings


async def get_owner(request: Request) -> str:
    """The name of the request's API key; empty if the service has no keys."""
    owner: str = request.state.owner
    return owner


async def get_user(request: Request) -> str:
    """Whoever takes turns with others in the queues: see `user_of`."""
    return user_of(request.scope)


async def received_upload(
    request: Request, settings: Annotated[Settings, Depends(get_settings)]
) -> AsyncIterator[ReceivedUpload]:
    """The picture in the request's body, with the fields of the form. Raises what `read_upload` raises.

    `AdmissionMiddleware` has refused the request before, if the picture would not be answered in time.
    """
    memory, user = request.app.state.upload_memory, user_of(request.scope)
    with memory.reservation(user) as reserve:
        yield await read_upload(request, settings.max_body_bytes, reserve, settings.deadline_s)


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects. The body must have been read before.

    Raises ClientDisconnect, and what the work raises.
    """
    working, disconnected = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait([working, disconnected], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return await working
    finally:
        for task in (working, disconnected):
            task.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


RegistryDep = Annotated[ModelRegistry, Depends(get_registry)]
ServiceDep = Annotated[Service, Depends(get_service)]
SettingsDep = Annotated[Settings, Depends(get_settings)]
UserDep = Annotated[str, Depends(get_user)]
OwnerDep = Annotated[str, Depends(get_owner)]
UploadDep = Annotated[ReceivedUpload, Depends(received_upload)]
