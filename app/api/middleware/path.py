"""Refuses paths with control characters, before any route is looked for."""

from __future__ import annotations

import unicodedata

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import problems
from app.errors import MalformedPath

# Controls, and the two separators that end a line. A regular expression's `$` also matches before a newline.
CONTROLS = {"Cc", "Zl", "Zp"}


class PathMiddleware:
    """ASGI middleware: no route, log or proxy rule ever sees a path that is longer than it looks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or not _has_controls(scope["path"]):
            await self._app(scope, receive, send)
            return
        error = MalformedPath("The path has a control character, such as %0A: leave it out.")
        await problems.response_to(Request(scope), error)(scope, receive, send)


def _has_controls(path: str) -> bool:
    return any(unicodedata.category(character) in CONTROLS for character in path)
