"""Refuses the target of a request, its path and query, before any route is looked for."""

from __future__ import annotations

import unicodedata

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import problems
from app.errors import FusionLensError, MalformedTarget, TargetTooLong

MAX_TARGET_BYTES = 8000  # RFC 9110, section 4.1: what everyone should support
MAX_PARAMETERS = 100
# Controls, and the two separators that end a line. A regular expression's `$` also matches before a newline.
CONTROLS = {"Cc", "Zl", "Zp"}


class TargetMiddleware:
    """ASGI middleware: no route, log or proxy rule ever sees a path that is longer than it looks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or (fault := _fault(scope)) is None:
            await self._app(scope, receive, send)
            return
        await problems.response_to(Request(scope), fault)(scope, receive, send)


def _fault(scope: Scope) -> FusionLensError | None:
    path, query = scope["path"], scope["query_string"]
    if len(scope.get("raw_path") or path) + len(query) > MAX_TARGET_BYTES:
        return TargetTooLong(f"Path and query have more than {MAX_TARGET_BYTES} bytes: leave out what is not needed.")
    if any(unicodedata.category(character) in CONTROLS for character in path):
        return MalformedTarget("The path has a control character, such as %0A: leave it out.")
    if query.count(b"&") >= MAX_PARAMETERS:
        return MalformedTarget(f"The query has more than {MAX_PARAMETERS} parameters: leave out what is not needed.")
    return None
