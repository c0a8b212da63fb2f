"""Refuses a picture that would not be answered in time, before its route is looked for and its body is read."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import problems
from app.api.keys.access import Authenticator
from app.api.keys.users import user_of
from app.errors import Forbidden, FusionLensError, Unauthorized
from app.serving.registry import ModelRegistry


class AdmissionMiddleware:
    """The innermost ASGI middleware. `routes` are those that take a picture, by their path.

    Routing and the dependencies of a route are most of what a refusal would cost, and a service that is asked for ten
    times what it can do refuses nine of ten requests.
    """

    def __init__(
        self, app: ASGIApp, routes: Mapping[str, APIRoute], models: ModelRegistry, authenticator: Authenticator
    ) -> None:
        self._app, self._routes, self._models, self._authenticator = app, routes, models, authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["method"] == "POST":
            route = self._routes.get(scope["path"].removeprefix(scope.get("root_path", "")))
            if route is not None and (refusal := self._refusal(scope)) is not None:
                scope["route"] = route  # for the log and the metrics
                await problems.response_to(Request(scope), refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> FusionLensError | None:
        """Why this request is not admitted. One without the key that it needs is refused by its route."""
        try:
            owner = self._authenticator.identify(Request(scope))
        except (Unauthorized, Forbidden):
            return None
        scope["state"]["owner"] = owner[0] if owner else ""
        try:
            service = self._models.current
            service.admit(service.deadline(), user_of(scope))
        except FusionLensError as refusal:
            return refusal
        return None
