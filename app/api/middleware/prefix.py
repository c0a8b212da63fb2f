"""Serves the application below a path prefix, whether the proxy in front of it removes the prefix or not."""

from __future__ import annotations

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class PrefixMiddleware:
    """ASGI middleware: routes see the prefix in `root_path` and at the start of `path`, as ASGI defines both.

    A path that is the prefix alone is sent to the page, whose links are relative to the slash at its end.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] == self._prefix and scope["method"] in ("GET", "HEAD"):
            await RedirectResponse(f"{self._prefix}/")(scope, receive, send)
            return
        if scope["path"].startswith("/") and not scope["path"].startswith(f"{self._prefix}/"):
            scope["path"] = self._prefix + scope["path"]
            scope["raw_path"] = self._prefix.encode() + (scope.get("raw_path") or b"")
        scope["root_path"] = self._prefix
        await self._app(scope, receive, send)
