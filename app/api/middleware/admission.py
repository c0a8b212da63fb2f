"""Admission control: refuses pictures before their body is read if the queues are full, which costs almost nothing."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import problems
from app.api.keys.users import user_of
from app.errors import Overloaded
from app.serving.registry import ModelRegistry

PICTURE_ROUTES = {"/predict", "/explain", "/gradcam", "/attention", "/tokens"}


class AdmissionMiddleware:
    """ASGI middleware: refuses uploads that would not be answered in time, before their body is read."""

    def __init__(self, app: ASGIApp, models: ModelRegistry) -> None:
        self._app, self._models = app, models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["method"] == "POST" and (route := path_of(scope)) in PICTURE_ROUTES:
            service = self._models.current
            try:
                service.admit(service.deadline(), user_of(scope))
            except Overloaded as error:
                scope["state"]["route"] = route  # for the metrics, since no route handles this request
                await problems.response_to(Request(scope), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def path_of(scope: Scope) -> str:
    """The path of a request below the mount point of the application."""
    path, prefix = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(prefix) if prefix else path
