"""What routes are given."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from starlette.requests import ClientDisconnect

from app.api.uploads import read_picture
from app.inference.service import Service
from app.settings import Settings

T = TypeVar("T")


def get_service(request: Request) -> Service:
    """The service that the lifespan made."""
    service: Service = request.app.state.service
    return service


def get_settings(request: Request) -> Settings:
    """The settings that the application was made with."""
    settings: Settings = request.app.state.settings
    return settings


async def uploaded_picture(request: Request, settings: Annotated[Settings, Depends(get_settings)]) -> bytes:
    """The picture in the request's body. Raises what `read_picture` raises."""
    return await read_picture(request, settings.max_upload_bytes)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
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


TheService = Annotated[Service, Depends(get_service)]
TheSettings = Annotated[Settings, Depends(get_settings)]
UploadedPicture = Annotated[bytes, Depends(uploaded_picture)]
