"""What routes are given. All of it is async: FastAPI would run plain functions in threads, for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from starlette.requests import ClientDisconnect

from app.api.uploads import UploadMemory, read_picture
from app.serving.registry import ModelRegistry
from app.serving.service import Service
from app.settings import Settings

T = TypeVar("T")


async def get_registry(request: Request) -> ModelRegistry:
    """The models that are loaded."""
    models: ModelRegistry = request.app.state.models
    return models


async def get_service(models: Annotated[ModelRegistry, Depends(get_registry)]) -> Service:
    """The service that answers now; a request stays with it to its end."""
    return models.current


async def get_settings(request: Request) -> Settings:
    """The settings that the application was made with."""
    settings: Settings = request.app.state.settings
    return settings


async def get_owner(request: Request) -> str:
    """The name of the key that the request came with; empty without keys."""
    owner: str = request.state.owner
    return owner


async def uploaded_picture(
    request: Request, settings: Annotated[Settings, Depends(get_settings)]
) -> AsyncIterator[bytes]:
    """The picture in the request's body. Raises what `read_picture` raises."""
    memory: UploadMemory = request.app.state.upload_memory
    with memory.reservation() as reserve:
        yield await read_picture(request, settings.max_upload_bytes, reserve, settings.deadline_s)


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client has gone. The body must have been read.

    Raises ClientDisconnect, and what the work raises.
    """
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return await working
    finally:
        for task in (working, gone):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


RegistryDep = Annotated[ModelRegistry, Depends(get_registry)]
ServiceDep = Annotated[Service, Depends(get_service)]
SettingsDep = Annotated[Settings, Depends(get_settings)]
OwnerDep = Annotated[str, Depends(get_owner)]
UploadedPicture = Annotated[bytes, Depends(uploaded_picture)]
