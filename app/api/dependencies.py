"""What routes are given."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from app.api.uploads import read_picture
from app.inference.service import Service
from app.settings import Settings


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


TheService = Annotated[Service, Depends(get_service)]
TheSettings = Annotated[Settings, Depends(get_settings)]
UploadedPicture = Annotated[bytes, Depends(uploaded_picture)]
